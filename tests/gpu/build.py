"""DeepEP for this machine: built from a source tree with the toolchain that is here, or a wheel taken as it is."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict


@dataclass(frozen=True)
class Library:
    """One DeepEP generation, ready: what ranks need in their environment, and how long it took."""

    env: dict[str, str] = field(default_factory=dict)
    tree: Path | None = None
    seconds: float = 0.0
    built: bool = False


class Kernel(TypedDict):
    """A kernel of V2's JIT: when it was ready (UNIX time), and how long the compiler took (-1: not known)."""

    name: str
    ready: float
    seconds: float


def cuda_home() -> Path:
    return Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda")


def unpacked(source: Path, below: Path, name: str) -> Path:
    """A private copy of a source tree (folder or tarball with one folder in it): a build must not touch the original."""
    target = below / name
    if target.is_dir():
        return target
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
        return target
    with tempfile.TemporaryDirectory(dir=below) as scratch, tarfile.open(source) as tar:
        tar.extractall(scratch, filter="data")
        (inner,) = Path(scratch).iterdir()
        inner.rename(target)
    return target


def install(wheel: Path, site: Path) -> None:
    """`wheel` may have lost its name on the way: pip refuses one that is not NAME-VERSION-TAGS.whl."""
    with tempfile.TemporaryDirectory() as folder:
        tags = f"cp{sys.version_info.major}{sys.version_info.minor}"
        named = wheel if wheel.name.count("-") >= 4 else Path(folder) / f"deep_ep-2.1.0+local-{tags}-{tags}-linux_x86_64.whl"
        if named is not wheel:
            named.symlink_to(wheel.resolve())
        words = ["pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", str(site), str(named)]
        subprocess.run([sys.executable, "-m", *words], check=True)


#: Some toolchains link libstdc++ into each library. Two copies in one process break std::locale: DeepEP V2's JIT then dies of SIGSEGV
#: in std::regex at its first kernel.
SHARED_CXX = "-Wl,--no-as-needed -l:libstdc++.so.6 -Wl,--as-needed"


def has_own_cxx_library(site: Path) -> bool:
    """True when an extension below `site` does not ask for the shared libstdc++."""
    return any(b"libstdc++.so.6\0" not in library.read_bytes() for library in site.rglob("*.so"))


def compile_wheel(tree: Path, env: dict[str, str], log: Path) -> Path:
    """setup.py bdist_wheel. Raises CalledProcessError; everything it printed is in `log`."""
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    flags = f"{os.environ.get('LDFLAGS', '')} {SHARED_CXX}"
    every = {**os.environ, "LDFLAGS": flags, "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}", "MAX_JOBS": str(os.cpu_count()), **env}
    with log.open("w") as stream:
        subprocess.run([sys.executable, "setup.py", "-q", "bdist_wheel"], cwd=tree, env=every, stdout=stream, stderr=stream, check=True)
    return next((tree / "dist").glob("*.whl"))


def v1(source: Path, wheel: Path | None, work: Path) -> Library:
    """DeepEP V1 with the NVSHMEM wheel that torch came with."""
    start = time.monotonic()
    tree, site = unpacked(source, work, "deepep-v1"), work / "site-v1"
    # CUDA 13 moved CCCL to a folder of its own, which NVSHMEM's headers do not know.
    built = wheel or compile_wheel(tree, {"CPATH": str(cuda_home() / "include" / "cccl")}, work / "build-v1.log")
    install(built, site)
    return Library({"PYTHONPATH": str(site)}, tree, time.monotonic() - start, wheel is None)


def nccl_root(library: Path, headers: Path, work: Path) -> Path:
    """lib/ and include/ of one NCCL, and a folder where torch finds it before its own: <root>/path/nvidia/nccl/lib."""
    root = work / "nccl"
    if not root.is_dir():
        (root / "lib").mkdir(parents=True)
        shutil.copy(library, root / "lib" / "libnccl.so.2")
        with tarfile.open(headers) as tar:
            tar.extractall(root, filter="data")
        # One inode under every name: two copies of a library would both be loaded.
        (root / "path" / "nvidia").mkdir(parents=True)
        for place in (root / "path" / "nvidia" / "nccl", root / "path" / "nccl"):
            place.symlink_to(root)
    return root


def v2(source: Path, wheel: Path | None, nccl: Path, fmt: Path | None, work: Path) -> Library:
    """DeepEP V2 on the given NCCL (2.30.4 or newer). `fmt` fills the submodule when it is built here."""
    start = time.monotonic()
    tree, site = unpacked(source, work, "deepep-v2"), work / "site-v2"
    env = {"EP_NCCL_ROOT_DIR": str(nccl)}
    if wheel is None:
        if fmt is not None and not any((tree / "third-party" / "fmt").glob("include")):
            shutil.rmtree(tree / "third-party" / "fmt", ignore_errors=True)
            unpacked(fmt, tree / "third-party", "fmt")
        # Its setup links -l:libnccl.so.2 without saying where.
        places = f"{nccl / 'lib'}:{cuda_home() / 'lib64' / 'stubs'}"
        wheel_built = compile_wheel(tree, {**env, "LIBRARY_PATH": places}, work / "build-v2.log")
    install(wheel or wheel_built, site)
    # torch preloads the first NCCL that it finds on sys.path; DeepEP refuses to run beside a second one.
    path = os.pathsep.join([str(nccl / "path"), str(site)])
    env |= {"PYTHONPATH": path, "EP_JIT_CACHE_DIR": str(work / "jit")}
    if has_own_cxx_library(site):
        env["LD_PRELOAD"] = "libstdc++.so.6"
        print("DeepEP v2 was linked with a libstdc++ of its own: preloading the shared one", flush=True)
    return Library(env, tree, time.monotonic() - start, wheel is None)


def compiled(work: Path) -> list[Kernel]:
    """V2's JIT cache in order of compilation."""
    found: list[Kernel] = []
    for cubin in (work / "jit").rglob("*.cubin"):
        source = cubin.with_name("kernel.cu")
        ready = cubin.stat().st_mtime
        found.append(
            {"name": cubin.parent.name, "ready": ready, "seconds": round(ready - source.stat().st_mtime, 2) if source.exists() else -1}
        )
    return sorted(found, key=lambda each: each["ready"])
