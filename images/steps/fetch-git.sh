#!/bin/sh
# fetch-git.sh NAME URL COMMIT TARGET: put the tree of COMMIT at TARGET, from /run/sources/NAME.tar (a `git archive`
# of that commit that the build host made from --source) or from URL. The commit id is verified either way.
set -eu
# shellcheck source=/dev/null
[ ! -e /run/host.sh ] || . /run/host.sh
name=$1 url=$2 commit=$3 target=$4
mkdir -p "$target"

if [ -f "/run/sources/$name.tar" ]; then
    found=$(git get-tar-commit-id <"/run/sources/$name.tar") || found=none
    if [ "$found" != "$commit" ]; then
        echo "epbox: $name.tar holds commit $found, the recipe pins $commit" >&2
        exit 1
    fi
    tar --extract --no-same-owner --file "/run/sources/$name.tar" --directory "$target"
    exit 0
fi

work=$(mktemp -d)
git -c init.defaultBranch=main init --quiet --bare "$work"
if ! git -C "$work" fetch --quiet --depth 1 "$url" "$commit"; then
    echo "epbox: cannot fetch $commit from $url; give a local copy: --source $name=PATH" >&2
    exit 1
fi
test "$(git -C "$work" rev-parse FETCH_HEAD)" = "$commit"
git -C "$work" archive "$commit" | tar --extract --no-same-owner --directory "$target"
