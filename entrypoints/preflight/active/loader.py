"""Child: what is really loaded, and what it means. `import MODULE...` imports and reads /proc/self/maps; `dlopen FILE` loads one file."""

import ctypes
import os
import re
import sys
from importlib import import_module
from pathlib import Path

from entrypoints.preflight.active.child import Record, Records, emit
from entrypoints.preflight.model import Answer, failed, not_run, passed, warned

#: Libraries of which a process should hold one copy.
SINGLE = ("libnvshmem_host", "libnccl", "libcudart", "libibverbs", "libmlx5")


def loaded(maps: str) -> dict[str, list[str]]:
    """Library stem -> distinct files mapped into a process, from the text of /proc/PID/maps."""
    files: dict[str, dict[str, None]] = {}
    for line in maps.splitlines():
        words = line.split(None, 5)
        if len(words) == 6:
            path = words[5].removesuffix(" (deleted)")
            stem = path.rpartition("/")[2].partition(".so")[0]
            if stem in SINGLE and ".so" in path:
                files.setdefault(stem, {}).setdefault(path)
    return {stem: list(paths) for stem, paths in files.items()}


def import_all(names: list[str]) -> Record:
    """{"modules": {name: version or error}, "libraries": {stem: [paths]}}."""
    modules: dict[str, dict[str, str]] = {}
    for name in names:
        try:
            module = import_module(name)
            modules[name] = {"version": str(getattr(module, "__version__", "unknown")), "file": str(getattr(module, "__file__", ""))}
        except Exception as error:
            # Anything may go wrong in a foreign module's import; its own words are the finding.
            modules[name] = {"error": re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]}
    return {"modules": modules, "libraries": loaded(Path("/proc/self/maps").read_text(errors="replace"))}


def main(arguments: list[str]) -> None:
    if arguments[0] == "import":
        emit(import_all(arguments[1:]))
        return
    try:
        ctypes.CDLL(arguments[1], mode=os.RTLD_NOW)
        emit({"file": arguments[1], "loaded": True})
    except OSError as error:
        emit({"file": arguments[1], "error": str(error)})


def identity(record: Record) -> Answer:
    """After import: one libnvshmem_host, one libnccl, and the modules themselves work."""
    modules, libraries, versions = record["modules"], record["libraries"], record["versions"]
    missing = "ModuleNotFoundError: No module named "
    absent = [name for name, module in modules.items() if module.get("error", "").startswith(missing + repr(name))]
    if len(absent) == len(modules):
        return not_run(f"{', '.join(absent)} not installed")
    errors = [f"{name}: {module['error']}" for name, module in modules.items() if "error" in module and name not in absent]
    if errors:
        return failed("; ".join(errors), "the recipe's image has the set that works; diagnose knows the usual import errors")
    evidence = ", ".join(f"{name} {module['version']}" for name, module in modules.items() if "version" in module)
    evidence += "".join(f"; {path} {version or 'version unknown'}" for path, version in versions.items())
    twice = {stem: paths for stem, paths in libraries.items() if len(paths) > 1 and stem in ("libnvshmem_host", "libnccl")}
    if twice:
        detail = "; ".join(f"{stem}: {', '.join(paths)}" for stem, paths in twice.items())
        remedy = "remove one, or make one win by ld.so.conf or LD_PRELOAD; two versions hang at the first dispatch"
        return failed(f"two copies in one process: {detail}", remedy)
    if absent:
        return warned(f"{', '.join(absent)} not installed in this Python; {evidence}", "run inside the image of the recipe, or install it")
    return passed(evidence)


def transport(records: Records) -> Answer:
    """The IBGDA transport loads with everything it needs."""
    bad = [f"{record['file'].rpartition('/')[2]}: {record['error']}" for record in records if "error" in record]
    if bad:
        remedy = "apt-get install libibverbs1 ibverbs-providers; one NVSHMEM major: .so.3 belongs to 3.4, .so.4 to 3.5"
        return failed("; ".join(bad), remedy)
    return passed(", ".join(str(record["file"]) for record in records))


if __name__ == "__main__":
    main(sys.argv[1:])
