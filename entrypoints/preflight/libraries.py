"""Libraries that DeepEP loads: one copy each, versions that fit, transports and the JIT's tools in place."""

import re

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import V2, Answer, Host, failed, not_run, passed, warned
from entrypoints.preflight.packages import compiled

LIBRARY_FOLDERS = (
    "lib",
    "usr/lib",
    "lib64",
    "usr/lib64",
    "usr/local/lib",
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "opt/nvshmem/lib",
)
TOOL_FOLDERS = ("usr/bin", "bin", "usr/sbin", "sbin", "usr/local/bin", "usr/local/cuda/bin")


def _folders(host: Host) -> tuple[str, ...]:
    """Folders where the loader and DeepEP look: LD_LIBRARY_PATH, NVSHMEM_DIR, wheels, then the system's."""
    given = [part for part in host.environ.get("LD_LIBRARY_PATH", "").split(":") if part.startswith("/")]
    given += [
        f"{host.environ[key]}/lib"
        for key in ("NVSHMEM_DIR", "EP_NVSHMEM_ROOT_DIR", "EP_NCCL_ROOT_DIR", "NCCL_DIR")
        if host.environ.get(key)
    ]
    wheels = [f"{site}/nvidia/{name}/lib" for site in host.site for name in ("nvshmem", "nccl", "cu13", "cuda_runtime")]
    return tuple(dict.fromkeys(folder.strip("/") for folder in (*given, *wheels, *LIBRARY_FOLDERS)))


def copies(host: Host, stem: str) -> tuple[str, ...]:
    """Real files of a library by its stem ("libnccl.so"), links to the same file counted once."""
    found: dict[str, None] = {}
    for folder in _folders(host):
        for name in host.files.maybe_names(folder):
            if name == stem or name.startswith(stem + "."):
                found.setdefault(host.files.canonical(f"{folder}/{name}"))
    return tuple(found)


def _need_folders(host: Host) -> None:
    """A snapshot without library folders says nothing of what is installed. Raises NotReadable."""
    if not host.site and not any(host.files.exists(folder) for folder in ("usr/lib", "lib", "usr/bin")):
        raise NotReadable("library and program folders are not part of this copy")


def package_version(host: Host, pattern: str) -> tuple[str, str] | None:
    """Name and version of the first installed Python package whose name matches, by .dist-info (wheels) or .egg-info (DeepEP)."""
    for site in host.site:
        for name in host.files.maybe_names(site):
            found = re.fullmatch(rf"({pattern})-([^-]+)(?:\.dist-info|(?:-py[\d.]+)?\.egg-info)", name)
            if found:
                return found[1], found[found.re.groups]
    return None


def numbers(version: str) -> tuple[int, ...]:
    """ "3.4.5+cu12" -> (3, 4, 5)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def cuda_version(host: Host) -> tuple[int, int] | None:
    """CUDA of the installed runtime wheel (major, minor)."""
    found = package_version(host, r"nvidia_cuda_runtime(_cu\d+)?")
    version = numbers(found[1]) if found else ()
    return (version[0], version[1]) if len(version) > 1 else None


def identity(host: Host) -> Answer:
    """One libnvshmem_host and one libnccl within the loader's reach; two halves of different versions hang."""
    _need_folders(host)
    shmem, nccl = copies(host, "libnvshmem_host.so"), copies(host, "libnccl.so")
    if not shmem and not nccl:
        return failed(
            "neither libnvshmem_host nor libnccl is installed here", "run inside the image of the recipe, or install its locked packages"
        )
    shown = f"libnvshmem_host: {', '.join(shmem) or 'none'}; libnccl: {', '.join(nccl) or 'none'}"
    if not shmem:
        return failed(shown, "NVSHMEM is missing: the recipe's image has it; pip install nvidia-nvshmem-cu12==3.4.5")
    preload = host.environ.get("LD_PRELOAD", "")
    if len(shmem) > 1 or len(nccl) > 1:
        return warned(
            f"{shown}{f'; LD_PRELOAD={preload}' if preload else ''}",
            "keep one of each: doctor --probe shows which is loaded after import; LD_PRELOAD or ld.so.conf decides",
        )
    return passed(shown)


def transports(host: Host) -> Answer:
    """The IBGDA transport lies beside libnvshmem_host, and what it loads is installed."""
    shmem = copies(host, "libnvshmem_host.so")
    if not shmem:
        return not_run("no libnvshmem_host to look beside")
    plugin = copies(host, "nvshmem_transport_ibgda.so")
    lacking = [
        name
        for name in ("libmlx5.so", "libibverbs.so")
        if not any(path.rpartition("/")[2].startswith(f"{name}.1") for path in copies(host, name))
    ]
    if not plugin:
        return failed(
            f"no nvshmem_transport_ibgda.so beside {shmem[0]}", "build NVSHMEM with NVSHMEM_IBGDA_SUPPORT=1, or use NVIDIA's wheel"
        )
    if lacking:
        return failed(f"missing {', '.join(f'{name}.1' for name in lacking)}", "apt-get install libibverbs1 ibverbs-providers")
    return passed(f"{', '.join(path.rpartition('/')[2] for path in plugin)}, libmlx5, libibverbs")


def nvshmem_pairing(host: Host) -> Answer:
    """NVSHMEM 3.5.19 or newer changed the queue pair layout: DeepEP 1.2.1 and V2's legacy kernels hang with it."""
    shmem, deepep = package_version(host, r"nvidia_nvshmem_cu\d+"), package_version(host, r"deep_ep")
    if shmem is None:
        source = compiled(host, "nvshmem")
        if source is None:
            return not_run("no NVSHMEM wheel is installed (a source build carries no package version)")
        shmem = ("nvshmem (compiled)", source)
    shown = f"{shmem[0]} {shmem[1]}, deep_ep {deepep[1] if deepep else 'not installed'}"
    version = numbers(shmem[1])
    if version < (3, 3, 9):
        return failed(shown, "NVSHMEM 3.3.9 or newer; 3.4.5 is the pair that works everywhere")
    if version >= (3, 5, 19):
        remedy = "nvidia-nvshmem 3.4.5, or DeepEP between 29d31c0 and 567632d"
        return warned(shown, remedy) if host.workload == V2 else failed(shown, remedy)
    return passed(shown)


def nccl_version(host: Host) -> Answer:
    """DeepEP V2 needs NCCL 2.30.4 or newer."""
    found = package_version(host, r"nvidia_nccl_cu\d+")
    if found is None:
        return not_run("no NCCL wheel is installed")
    shown = f"{found[0]} {found[1]}"
    if numbers(found[1]) < (2, 30, 4):
        return failed(
            shown, f"pip install --no-deps {found[0].replace('_', '-')}==2.30.7 as the last step: other packages pull it down (DeepEP#710)"
        )
    return passed(shown)


def tool(host: Host, name: str) -> str | None:
    """A program within PATH and the usual folders, as an absolute path inside the root."""
    path = [part.strip("/") for part in host.environ.get("PATH", "").split(":") if part.startswith("/")]
    home = [f"{host.environ[key].strip('/')}/bin" for key in ("CUDA_HOME", "CUDA_PATH") if host.environ.get(key)]
    for folder in dict.fromkeys((*home, *path, *TOOL_FOLDERS)):
        if host.files.exists(f"{folder}/{name}"):
            return f"/{folder}/{name}"
    return None


def ibstat(host: Host) -> Answer:
    """DeepEP V2 sizes itself by `ibstat EP_NIC_NAME`, by default mlx5_0."""
    _need_folders(host)
    place, wanted = tool(host, "ibstat"), host.environ.get("EP_NIC_NAME", "mlx5_0")
    answer = warned if host.nodes == 1 else failed
    if place is None:
        return answer("ibstat is not installed: V2 then takes the NIC's rate as 0", "apt-get install infiniband-diags")
    known = [hca.id for hca in host.topology.hcas]
    if not known:
        return not_run(f"{place}; no HCA to look for {wanted}")
    if wanted not in known:
        return answer(
            f"EP_NIC_NAME={wanted} is not among {', '.join(known)}",
            f"export EP_NIC_NAME={next((hca.id for hca, _ in host.fabric()), known[0])} (plan sets it)",
        )
    return passed(f"{place}, EP_NIC_NAME={wanted}")


def jit(host: Host) -> Answer:
    """DeepEP V2 compiles kernels at run time: nvcc, and a cache folder that can be written."""
    _need_folders(host)
    nvcc = tool(host, "nvcc")
    if nvcc is None:
        return failed("nvcc is not installed: V2 compiles its kernels at run time", "an image with nvcc (recipe deepep-v2), CUDA_HOME set")
    folder = host.environ.get("EP_JIT_CACHE_DIR") or f"{host.environ.get('HOME', '/root')}/.deep_ep"
    place = folder
    while place not in ("", "/") and not host.files.exists(place.strip("/")):
        place = place.rpartition("/")[0]
    if not host.probes.writable(place or "/"):
        return failed(
            f"{nvcc}; {folder} is not writable", "set EP_JIT_CACHE_DIR to a writable folder, best one that outlives the container"
        )
    return passed(f"{nvcc}, cache {folder}")
