#!/bin/sh
# apt-install.sh PACKAGE...: install Debian packages without recommendations and leave no trace of the work:
# no logs, no backups, no setuid programs, no bytecode that carries times.
set -eu
# shellcheck source=/dev/null
. /run/steps/host.sh
export DEBIAN_FRONTEND=noninteractive PYTHONHASHSEED=0

apt() {
    apt-get -q -o APT::Keep-Downloaded-Packages=true -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}

apt update
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
