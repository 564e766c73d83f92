#!/bin/sh
# apt-install.sh PINS | PACKAGE...: install Debian packages without recommendations and leave no trace of the work:
# no logs, no backups, no setuid programs, no bytecode that carries times.
# PINS is a file of lines NAME VERSION ARCH SHA256 (VERSION * takes what the mirror has). Then exactly these packages are installed:
# every package file is compared with its sha256 before anything is, and a version that the mirror has no more is named and ends this.
set -eu
# shellcheck source=/dev/null
[ ! -e /run/host.sh ] || . /run/host.sh
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PYTHONHASHSEED=0

apt() {
    apt-get -q -o APT::Keep-Downloaded-Packages=true -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}

require_offered() { # PINS
    # shellcheck disable=SC2046 # one word a package
    apt-cache madison $(cut -d ' ' -f 1 "$1") | awk '{ print $1, $3 }' >/tmp/offered
    gone=0
    while read -r name version _; do
        if [ "$version" != "*" ] && ! grep -qxF "$name $version" /tmp/offered; then
            offered=$(awk -v name="$name" '$1 == name { print $2; exit }' /tmp/offered)
            echo "epbox: drift: $name $version -> ${offered:-none}" >&2
            gone=1
        fi
    done <"$1"
    [ "$gone" -eq 0 ]
}

require_complete() { # PINS PACKAGE...
    pins=$1
    shift
    apt install --simulate --no-install-recommends "$@" | awk '$1 == "Inst" { print $2 }' | sort >/tmp/planned
    cut -d ' ' -f 1 "$pins" | sort >/tmp/pinned
    extra=$(comm -23 /tmp/planned /tmp/pinned)
    # A version that is not the locked one may need what the lock does not know; otherwise the lock is incomplete.
    if [ -n "$extra" ] && ! grep -q '^[^ ]* \* ' "$pins"; then
        echo "epbox: lock: apt would also install $(echo "$extra" | tr '\n' ' ')which the lock does not name" >&2
        exit 1
    fi
}

require_hashes() { # PINS
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
    done <"$1"
}

apt update
if [ -f "$1" ]; then
    pins=$1
    require_offered "$pins"
    # shellcheck disable=SC2046
    set -- $(awk '{ print $2 == "*" ? $1 : $1 "=" $2 }' "$pins")
    require_complete "$pins" "$@"
    apt install --yes --download-only --no-install-recommends "$@"
    require_hashes "$pins"
fi
apt install --yes --no-install-recommends "$@"

if command -v python3 >/dev/null; then
    python3 - <<'PYTHON'
# Turn time-stamped bytecode into unchecked-hash bytecode (PEP 552): it is valid whatever the mtime of its source.
import _imp
import importlib.util
import os

for folder, _, names in os.walk("/usr"):
    for name in names:
        if not name.endswith(".pyc"):
            continue
        path = os.path.join(folder, name)
        try:
            source = importlib.util.source_from_cache(path)
            with open(source, "rb") as stream:
                digest = _imp.source_hash(importlib.util._RAW_MAGIC_NUMBER, stream.read())
        except (ValueError, OSError):
            os.unlink(path)
            continue
        with open(path, "r+b") as stream:
            stream.seek(4)
            stream.write((0b01).to_bytes(4, "little") + digest)
PYTHON
fi

find / -xdev -type f -perm /6000 -exec chmod a-s {} +
find /var/log -type f -delete
rm -rf /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/apt/extended_states.*
