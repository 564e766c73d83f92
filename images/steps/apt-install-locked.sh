#!/bin/sh
# apt-install-locked.sh PINS: install exactly the packages of PINS (lines: NAME VERSION ARCH SHA256; VERSION * takes what the mirror has).
# Every package file is compared with its sha256 before anything is installed; a version that the mirror has no more is named, and ends this.
set -eu
# shellcheck source=/dev/null
. /run/steps/host.sh
pins=$1
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

apt() {
    apt-get -q -o APT::Keep-Downloaded-Packages=true -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}

apt update
# shellcheck disable=SC2046 # one word a package
apt-cache madison $(cut -d ' ' -f 1 "$pins") | awk '{ print $1, $3 }' >/tmp/offered
gone=0
while read -r name version _; do
    if [ "$version" != "*" ] && ! grep -qxF "$name $version" /tmp/offered; then
        offered=$(awk -v name="$name" '$1 == name { print $2; exit }' /tmp/offered)
        echo "epbox: drift: $name $version -> ${offered:-none}" >&2
        gone=1
    fi
done <"$pins"
[ "$gone" -eq 0 ]

# shellcheck disable=SC2046
set -- $(awk '{ print $2 == "*" ? $1 : $1 "=" $2 }' "$pins")
apt install --simulate --no-install-recommends "$@" | awk '$1 == "Inst" { print $2 }' | sort >/tmp/planned
cut -d ' ' -f 1 "$pins" | sort >/tmp/pinned
extra=$(comm -23 /tmp/planned /tmp/pinned)
# A version that is not the locked one may need what the lock does not know; otherwise the lock is incomplete.
if [ -n "$extra" ] && ! grep -q '^[^ ]* \* ' "$pins"; then
    echo "epbox: lock: apt would also install $(echo "$extra" | tr '\n' ' ')which the lock does not name" >&2
    exit 1
fi

apt install --yes --download-only --no-install-recommends "$@"
while read -r name version arch sha256; do
    if [ "$version" = "*" ] || ! grep -qxF "$name" /tmp/planned; then
        continue # the base has it already
    fi
    file=/var/cache/apt/archives/${name}_$(echo "$version" | sed 's/:/%3a/g')_$arch.deb
    found=$(sha256sum "$file" | cut -d ' ' -f 1)
    if [ "$found" != "$sha256" ]; then
        echo "epbox: lock: $name $version has sha256 $found, the lock says $sha256" >&2
        exit 1
    fi
done <"$pins"
exec sh /run/steps/apt-install.sh "$@"
