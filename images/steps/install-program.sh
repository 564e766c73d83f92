#!/bin/sh
# install-program.sh: make /opt/epbox runnable as `epbox` by any user, read-only, with bytecode that needs no writable folder.
set -eu
PYTHONHASHSEED=0 python3 -m compileall -q --invalidation-mode unchecked-hash /opt/epbox/entrypoints
ln -s /opt/epbox/bin/epbox /usr/local/bin/epbox
