#!/bin/sh
# pip-install.sh PYTHON REQUIREMENTS TARGET: install hash-locked wheels, and only wheels, into TARGET.
set -eu
# shellcheck source=/dev/null
[ ! -e /run/host.sh ] || . /run/host.sh
python=$1 requirements=$2 target=$3
# pip unpacks below TMPDIR and then moves: on the layer's own file system, gigabytes stay out of memory.
mkdir -p "$target/.tmp"
export TMPDIR="$target/.tmp"
"$python" -m pip install --quiet --require-hashes --only-binary :all: --no-deps --no-compile --cache-dir /var/cache/pip \
    --requirement "$requirements" --target "$target"
rm -rf "$target/.tmp"
