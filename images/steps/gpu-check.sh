#!/bin/sh
# gpu-check.sh SITE NVSHMEM_ROOT GENERATION: prove that torch, NVSHMEM, NCCL and DeepEP fit together where only the driver is missing.
# /stub holds a libcuda that answers every call with an error.
set -eu
site=$1 nvshmem=$2 generation=$3
export LD_LIBRARY_PATH=/stub PYTHONDONTWRITEBYTECODE=1
case $generation in v1) module=deep_ep_cpp ;; v2) module=deep_ep._C ;; esac

python3 - "$module" "$nvshmem" <<'PYTHON'
import importlib
import os
import sys

import torch

module, nvshmem = sys.argv[1:]
extension = importlib.import_module(module)
try:
    import deep_ep
except Exception as error:
    if "driver" not in str(error).lower() and "cuda" not in str(error).lower():
        raise
    print(f"import deep_ep ends at the driver: {error}")
else:
    print(f"import deep_ep: ok ({deep_ep.__file__})")
with open(extension.__file__, "rb") as library:
    names = library.read()
for symbol in (b"9internode8dispatch", b"9internode7combine", b"12internode_ll8dispatch", b"12internode_ll7combine"):
    if symbol not in names:
        sys.exit(f"epbox: {extension.__file__} has no {symbol.decode()}: built without NVSHMEM")
with open("/proc/self/maps") as maps:
    loaded = {os.path.realpath(line.split()[-1]) for line in maps if ".so" in line}
for name in ("libnvshmem_host", "libnccl"):
    found = sorted(path for path in loaded if os.path.basename(path).startswith(name + ".so"))
    print(f"{name}: {', '.join(found)}")
    if len(found) != 1:
        sys.exit(f"epbox: {len(found)} copies of {name} are loaded, not one")
    if name == "libnvshmem_host" and not found[0].startswith(os.path.realpath(nvshmem) + "/"):
        sys.exit(f"epbox: {name} is not the one in {nvshmem}")
print(f"torch {torch.__version__}, {extension.__file__}")
PYTHON

# Whatever else is opened later: every library must find all it needs, but for the driver's. DeepEP is loaded after torch.
export LD_LIBRARY_PATH="/stub:$site/torch/lib:$site/nvidia/cu13/lib"
missing=$(find "$site" "$nvshmem" -name '*.so*' -type f -exec sh -c 'for f; do ldd "$f" 2>/dev/null | sed -n "s|^\t\(.*\) => not found|\1 ($f)|p"; done' _ {} + |
    grep -Ev '^(libcuda|libnvidia-ml)\.so' | sort -u || true)
[ -z "$missing" ] || { echo "epbox: libraries without what they need:" >&2; echo "$missing" >&2; exit 1; }

copies=$(find / -xdev -name 'libnvshmem_host.so*' -type f | wc -l)
[ "$copies" = 1 ] || { echo "epbox: $copies files are libnvshmem_host" >&2; exit 1; }
open=$(find / -xdev \( -path /proc -o -path /tmp -o -path /var/tmp -o -path /run \) -prune -o \( -type f -o -type d \) -perm -o+w ! -perm -1000 -print | head)
[ -z "$open" ] || { echo "epbox: anybody may write $open" >&2; exit 1; }
