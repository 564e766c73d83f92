"""Child: what is really loaded. `import MODULE...` imports and reads /proc/self/maps; `dlopen FILE` loads one library."""

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Any

from entrypoints.preflight.active.child import emit

#: Libraries of which a process should hold one copy.
SINGLE = ("libnvshmem_host", "libnccl", "libcudart", "libibverbs", "libmlx5")


def loaded(maps: str) -> dict[str, list[str]]:
    """Library stem -> distinct files mapped into a process, from the text of /proc/PID/maps."""
    found: dict[str, dict[str, None]] = {}
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) == 6:
            path = words[5].removesuffix(" (deleted)")
            stem = path.rpartition("/")[2].partition(".so")[0]
            if stem in SINGLE and ".so" in path:
                found.setdefault(stem, {}).setdefault(path)
    return {stem: list(paths) for stem, paths in found.items()}


def nccl_version(path: str) -> str | None:
    """ncclGetVersion of a loaded library: 23004 -> 2.30.4."""
    value = ctypes.c_int()
    try:
        ctypes.CDLL(path).ncclGetVersion(ctypes.byref(value))
    except (OSError, AttributeError):
        return None
    code = value.value
    # Releases before 2.9 used 1000 for the major version (nccl.h, NCCL_VERSION).
    return f"{code // 10000}.{code % 10000 // 100}.{code % 100}" if code >= 10000 else f"{code // 1000}.{code % 1000 // 100}.{code % 100}"


def nvshmem_version(path: str) -> str | None:
    """nvshmemx_vendor_get_version_info of a loaded host library."""
    major, minor, patch = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    try:
        ctypes.CDLL(path).nvshmemx_vendor_get_version_info(ctypes.byref(major), ctypes.byref(minor), ctypes.byref(patch))
    except (OSError, AttributeError):
        return None
    return f"{major.value}.{minor.value}.{patch.value}"


def import_all(names: list[str]) -> dict[str, Any]:
    """{"modules": {name: version or error}, "libraries": {stem: [paths]}, "versions": {path: version}}."""
    from importlib import import_module

    modules: dict[str, dict[str, str]] = {}
    for name in names:
        try:
            module = import_module(name)
            modules[name] = {"version": str(getattr(module, "__version__", "unknown")), "file": str(getattr(module, "__file__", ""))}
        except Exception as error:
            # Anything may go wrong in a foreign module's import; its own words are the finding.
            modules[name] = {"error": re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]}
    libraries = loaded(Path("/proc/self/maps").read_text(errors="replace"))
    versions = {path: nccl_version(path) for path in libraries.get("libnccl", [])}
    versions.update({path: nvshmem_version(path) for path in libraries.get("libnvshmem_host", [])})
    return {"modules": modules, "libraries": libraries, "versions": versions}


def main(arguments: list[str]) -> int:
    if arguments[0] == "import":
        emit(import_all(arguments[1:]))
        return 0
    try:
        ctypes.CDLL(arguments[1], mode=os.RTLD_NOW)
    except OSError as error:
        emit({"file": arguments[1], "error": str(error)})
        return 0
    emit({"file": arguments[1], "loaded": True})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
