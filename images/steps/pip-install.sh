#!/bin/sh
# pip-install.sh PYTHON REQUIREMENTS TARGET: install hash-locked wheels, and only wheels, into TARGET.
set -eu
# shellcheck source=/dev/null
. /run/steps/host.sh
python=$1 requirements=$2 target=$3
"$python" -m pip install --quiet --require-hashes --only-binary :all: --no-deps --no-compile --cache-dir /var/cache/pip \
    --requirement "$requirements" --target "$target"
