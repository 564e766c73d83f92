"""What DeepEP would run with: libraries as the loader takes them, versions that go together, packages as the image was locked."""

import json
import re
from typing import Any
from urllib.parse import unquote

from entrypoints.facts import pairs
from entrypoints.facts.pairs import Pair
from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import V2, Answer, Host, Library, failed, not_run, passed, warned

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
#: How a library names its version in its read-only data, which both have within their first 16 MiB.
VERSION_TEXT = {"nccl": rb"NCCL version (\d+\.\d+\.\d+)", "nvshmem": rb"NVSHMEM v(\d+\.\d+\.\d+)"}
VERSION_BYTES = 16 << 20
STEMS = {"nccl": "libnccl.so", "nvshmem": "libnvshmem_host.so"}
WHEELS = {"nccl": r"nvidia_nccl_cu\d+", "nvshmem": r"nvidia_nvshmem_cu\d+"}

SBOM = "opt/epbox/sbom.spdx.json"
#: SBOM and dpkg's status grow with the image: a thousand packages are about 1 MiB of either.
_PACKAGES_BYTES = 8 << 20
#: Wheels whose version decides whether DeepEP runs; any other difference is a WARN.
_DECIDE = re.compile(r"torch|nvidia-(nccl|nvshmem)-cu\d+")

_Versions = dict[str, set[str]]


def _folders(host: Host, part: str) -> tuple[str, ...]:
    """Folders where NCCL or NVSHMEM is looked for, in the order in which the first wins."""
    wheels = [f"{site}/{folder}" for site in host.site for folder in (f"nvidia/{part}/lib", f"{part}/lib")]
    # torch loads both by path along the import path, and its DT_RPATH comes before LD_LIBRARY_PATH (ld.so(8)).
    by_torch = wheels if any(host.files.exists(f"{site}/torch/lib") for site in host.site) else []
    by_path = [folder for folder in host.environ.get("LD_LIBRARY_PATH", "").split(":") if folder.startswith("/")]
    # What DeepEP was built with, which it has as RUNPATH.
    named = [host.environ.get(variable) for variable in (f"EP_{part.upper()}_ROOT_DIR", f"{part.upper()}_DIR")]
    configs = [host.files.maybe(f"etc/ld.so.conf.d/{name}") or "" for name in host.files.maybe_names("etc/ld.so.conf.d")]
    configured = [line.strip() for text in configs for line in text.splitlines() if line.startswith("/")]
    return (*by_torch, *by_path, *(f"{root}/lib" for root in named if root), *wheels, *configured, *LIBRARY_FOLDERS)


def copies(host: Host, stem: str, part: str = "nvshmem") -> tuple[str, ...]:
    """Real files of a library by its stem ("libnccl.so"), first the one that would load; links to the same file count once."""
    preloaded = re.split(r"[:\s]+", host.environ.get("LD_PRELOAD", ""))
    paths = [path for path in preloaded if path.startswith("/") and path.rpartition("/")[2].startswith(stem)]
    for folder in _folders(host, part):
        paths += [f"{folder}/{name}" for name in host.files.maybe_names(folder) if name == stem or name.startswith(stem + ".")]
    return tuple(dict.fromkeys(real for path in paths if (real := host.files.canonical(path))))


def library(host: Host, part: str) -> Library | None:
    """NCCL or NVSHMEM as it is loaded or would load; where no file tells a version, as metadata has it; None without any trace."""
    if part in host.loaded:
        return host.loaded[part]
    path = next(iter(copies(host, STEMS[part], part)), None)
    version = file_version(host, part, path) if path else None
    if version:
        return Library(version, f"{path} would load")
    wheel = package_version(host, WHEELS[part])
    if wheel and (path is None or f"/nvidia/{part}/lib/" in path):
        return Library(wheel[1], f"by the metadata of {wheel[0]}")
    built = compiled(host, part)
    if built:
        return Library(built[0], "compiled, by the image's SBOM")
    return Library(None, f"{path}, version unknown") if path else None


def file_version(host: Host, part: str, path: str) -> str | None:
    """The version that a library's file name or its own text tells; None where neither does."""
    named = re.search(r"\.so\.(\d+(?:\.\d+)+)$", path)
    if named:
        return named[1]
    try:
        match = re.search(VERSION_TEXT[part], host.files.data(path, VERSION_BYTES))
    except NotReadable:
        return None
    return match[1].decode() if match else None


def package_version(host: Host, pattern: str) -> tuple[str, str] | None:
    """Name and version of the first installed Python package whose name matches, by .dist-info (wheels) or .egg-info (DeepEP)."""
    for site in host.site:
        for name in host.files.maybe_names(site):
            match = re.fullmatch(rf"({pattern})-([^-]+)(?:\.dist-info|(?:-py[\d.]+)?\.egg-info)", name)
            if match:
                return match[1], match[match.re.groups]
    return None


def cuda_version(host: Host) -> str | None:
    """CUDA of the installed runtime wheel: "13.0"."""
    package = package_version(host, r"nvidia_cuda_runtime(_cu\d+)?")
    numbers = pairs.release(package[1]) if package else ()
    return f"{numbers[0]}.{numbers[1]}" if len(numbers) > 1 else None


def deepep(host: Host) -> tuple[str | None, str | None]:
    """Version and commit of the installed DeepEP: the commit from its version ("1.2.1+567632d"), else from the image's SBOM."""
    package, built = package_version(host, "deep_ep"), compiled(host, "deepep")
    version = package[1] if package else None
    local = re.search(r"\+([0-9a-f]{7,40})$", version or "")
    return version, local[1] if local else built[1] if built else None


def versions(host: Host) -> dict[str, str | None]:
    """What is known of the components of facts/pairs.toml on this host; None is unknown."""
    version, commit = deepep(host)
    nvshmem, nccl, torch = library(host, "nvshmem"), library(host, "nccl"), package_version(host, "torch")
    try:
        arch = next((gpu.arch for gpu in host.probes.gpus().gpus if gpu.arch), None)
    except NotReadable:
        arch = None
    is_v2 = host.workload == V2 or pairs.release(version or "") >= (2,)
    return {
        "deepep.commit": commit,
        "deepep.generation": None if pairs.commit_position(commit or "") else "v2" if is_v2 else "v1",
        "nvshmem.version": nvshmem.version if nvshmem else None,
        "nccl.version": nccl.version if nccl else None,
        "torch.version": torch[1] if torch else None,
        "cuda.version": cuda_version(host),
        "gpu.arch": arch,
    }


def _judge(host: Host, evidence: str, prefixes: tuple[str, ...]) -> Answer:
    """The worst of the pairs with one of these components; a pair that DeepEP's unknown commit alone leaves open is a WARN."""
    components = versions(host)
    matching, undecided = (
        [pair for pair in rows if any(name.startswith(prefixes) for name in pair.when)]
        for rows in (pairs.matching(components), pairs.undecided(components, "deepep.commit"))
    )
    for pair in sorted(matching, key=lambda pair: _is_partial(host, pair)):
        severity = warned if _is_partial(host, pair) else failed
        return severity(f"{evidence}: {pair.reason}", f"{pair.remedy} ({pair.source})")
    for pair in undecided:
        return warned(f"{evidence}, commit unknown; if it is one of these: {pair.reason}", f"{pair.remedy} ({pair.source})")
    return passed(evidence)


def _is_partial(host: Host, pair: Pair) -> bool:
    """True when the workload may still run: the pair hits kernels that it does not use, or spoils some calls only."""
    return pair.effect == "wrong numbers" or (pair.part == "legacy" and host.workload == V2)


def nvshmem_pairing(host: Host) -> Answer:
    """NVSHMEM goes with this DeepEP and torch, by facts/pairs.toml."""
    version, commit = deepep(host)
    beside = f" at {commit[:7]}" if commit and commit[:7] not in (version or "") else ""
    return _library_fits(host, "nvshmem", f", deep_ep {version or 'not installed'}{beside}")


def nccl_version(host: Host) -> Answer:
    """NCCL is new enough for DeepEP V2, by facts/pairs.toml."""
    return _library_fits(host, "nccl", "")


def _library_fits(host: Host, part: str, beside: str) -> Answer:
    judged = library(host, part)
    if judged is None:
        return not_run(f"no {part.upper()} is seen: no library, no wheel")
    if judged.version is None:
        return not_run(f"{part.upper()}: {judged.basis}")
    return _judge(host, f"{part.upper()} {judged.version} ({judged.basis}){beside}", (f"{part}.",))


def other_pairs(host: Host) -> Answer:
    """torch, CUDA and the GPUs' architecture go with this DeepEP, by facts/pairs.toml."""
    components = versions(host)
    keys = ("torch.version", "cuda.version", "gpu.arch")
    parts = [f"{key.partition('.')[0]} {components[key]}" for key in keys if components[key]]
    if not parts:
        return not_run("neither torch, CUDA's packages nor the GPUs' architecture are known")
    return _judge(host, f"{', '.join(parts)}, deep_ep {deepep(host)[0] or 'not installed'}", keys)


def _need_folders(host: Host) -> None:
    """A snapshot without library folders says nothing of what is installed. Raises NotReadable."""
    if not host.site and not any(host.files.exists(folder) for folder in ("usr/lib", "lib", "usr/bin")):
        raise NotReadable("library and program folders are not part of this copy")


def identity(host: Host) -> Answer:
    """One libnvshmem_host and one libnccl within the loader's reach; two halves of different versions hang."""
    _need_folders(host)
    shmem, nccl = copies(host, STEMS["nvshmem"]), copies(host, STEMS["nccl"], "nccl")
    if not shmem and not nccl:
        remedy = "run inside the image of the recipe, or install its locked packages"
        return failed("neither libnvshmem_host nor libnccl is installed here", remedy)
    evidence = f"libnvshmem_host: {', '.join(shmem) or 'none'}; libnccl: {', '.join(nccl) or 'none'}"
    if not shmem:
        return failed(evidence, "NVSHMEM is missing: the recipe's image has it; pip install nvidia-nvshmem-cu12==3.4.5")
    preload = host.environ.get("LD_PRELOAD", "")
    if len(shmem) > 1 or len(nccl) > 1:
        remedy = "keep one of each: doctor --probe shows which is loaded after import; LD_PRELOAD or ld.so.conf decides"
        return warned(f"{evidence} (the first would load){f'; LD_PRELOAD={preload}' if preload else ''}", remedy)
    return passed(evidence)


def transports(host: Host) -> Answer:
    """The IBGDA transport lies beside libnvshmem_host, and what it loads is installed."""
    shmem = copies(host, STEMS["nvshmem"])
    if not shmem:
        return not_run("no libnvshmem_host to look beside")
    plugin = copies(host, "nvshmem_transport_ibgda.so")
    lacking = [name for name in ("libmlx5.so.1", "libibverbs.so.1") if not copies(host, name)]
    if not plugin:
        remedy = "build NVSHMEM with NVSHMEM_IBGDA_SUPPORT=1, or use NVIDIA's wheel"
        return failed(f"no nvshmem_transport_ibgda.so beside {shmem[0]}", remedy)
    if lacking:
        return failed(f"missing {', '.join(lacking)}", "apt-get install libibverbs1 ibverbs-providers")
    return passed(f"{', '.join(path.rpartition('/')[2] for path in plugin)}, libmlx5, libibverbs")


def tool(host: Host, name: str) -> str | None:
    """A program within PATH and the usual folders, as an absolute path inside the root."""
    path = [part.strip("/") for part in host.environ.get("PATH", "").split(":") if part.startswith("/")]
    home = [f"{host.environ[key].strip('/')}/bin" for key in ("CUDA_HOME", "CUDA_PATH") if host.environ.get(key)]
    return next((f"/{folder}/{name}" for folder in (*home, *path, *TOOL_FOLDERS) if host.files.exists(f"{folder}/{name}")), None)


def ibstat(host: Host) -> Answer:
    """DeepEP V2 sizes itself by `ibstat EP_NIC_NAME`, by default mlx5_0."""
    _need_folders(host)
    program, wanted = tool(host, "ibstat"), host.environ.get("EP_NIC_NAME", "mlx5_0")
    severity = warned if host.nodes == 1 else failed
    if program is None:
        return severity("ibstat is not installed: V2 then takes the NIC's rate as 0", "apt-get install infiniband-diags")
    names = [hca.id for hca in host.topology.hcas]
    if not names:
        return not_run(f"{program}; no HCA to look for {wanted}")
    if wanted not in names:
        remedy = f"export EP_NIC_NAME={next((hca.id for hca, _ in host.fabric()), names[0])} (plan sets it)"
        return severity(f"EP_NIC_NAME={wanted} is not among {', '.join(names)}", remedy)
    return passed(f"{program}, EP_NIC_NAME={wanted}")


def jit(host: Host) -> Answer:
    """DeepEP V2 compiles kernels at run time: nvcc, and a cache folder that can be written."""
    _need_folders(host)
    nvcc = tool(host, "nvcc")
    if nvcc is None:
        return failed("nvcc is not installed: V2 compiles its kernels at run time", "an image with nvcc (recipe deepep-v2), CUDA_HOME set")
    cache = host.environ.get("EP_JIT_CACHE_DIR") or f"{host.environ.get('HOME', '/root')}/.deep_ep"
    folder = cache
    while folder not in ("", "/") and not host.files.exists(folder):
        folder = folder.rpartition("/")[0]
    if not host.probes.writable(folder or "/"):
        return failed(f"{nvcc}; {cache} is not writable", "set EP_JIT_CACHE_DIR to a writable folder, best one that outlives the container")
    return passed(f"{nvcc}, cache {cache}")


def locked(host: Host) -> Answer:
    """Debian packages and wheels have the versions that the image was locked to. Packages added later do not count."""
    want: dict[str, _Versions] = {"deb": {}, "pypi": {}}
    try:
        for purl in (reference["referenceLocator"] for package in _sbom(host) for reference in package.get("externalRefs", ())):
            match = re.fullmatch(r"pkg:(deb|pypi)/(?:[^/@]+/)?([^/@]+)@([^?]+)(?:\?.*)?", purl)
            if match:
                want[match[1]].setdefault(unquote(match[2]), set()).add(unquote(match[3]))
    except (KeyError, TypeError, AttributeError) as error:
        raise NotReadable(f"/{SBOM}: {error!r}") from None
    have = {"deb": _debian(host), "pypi": _wheels(host)}
    differ = [
        (name, f"{name} {' '.join(sorted(have[kind].get(name, ())) or ['missing'])}, locked {' '.join(sorted(expected))}")
        for kind, packages in want.items()
        for name, expected in sorted(packages.items())
        if have[kind].get(name) != expected
    ]
    if not differ:
        return passed(f"{len(want['deb'])} Debian packages and {len(want['pypi'])} wheels as the image was locked")
    evidence = "; ".join(words for _, words in differ[:4]) + (f"; {len(differ) - 4} more" if differ[4:] else "")
    severity = failed if any(_DECIDE.fullmatch(name) for name, _ in differ) else warned
    return severity(evidence, "run the image as it was built, or put these versions into a recipe: results are not comparable")


def compiled(host: Host, name: str) -> tuple[str, str | None] | None:
    """Version and commit of a part that the image compiled from source, by its SBOM; None when there is no such part, or no SBOM."""
    try:
        part = next(package for package in _sbom(host) if package["name"] == name and "externalRefs" not in package)
        commit = re.fullmatch(r"git\+.+@([0-9a-f]{40})", part.get("downloadLocation", ""))
        return str(part["versionInfo"]), commit[1] if commit else None
    except (NotReadable, StopIteration, KeyError, TypeError):
        return None


def _sbom(host: Host) -> list[dict[str, Any]]:
    """The packages of the image's own SPDX document, which `verify --image` proved. Raises NotReadable."""
    try:
        packages = json.loads(host.files.data(SBOM, _PACKAGES_BYTES))["packages"]
        if not isinstance(packages, list):
            raise TypeError("packages is not a list")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotReadable(f"/{SBOM}: {error!r}") from None
    return packages


def _debian(host: Host) -> _Versions:
    packages: _Versions = {}
    for stanza in host.files.data("var/lib/dpkg/status", _PACKAGES_BYTES).decode(errors="replace").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version): (.+)$", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and "Version" in fields:
            packages.setdefault(fields.get("Package", ""), set()).add(fields["Version"])
    return packages


def _wheels(host: Host) -> _Versions:
    packages: _Versions = {}
    for site in (*host.site, "opt/cuda"):
        for name in host.files.maybe_names(site):
            match = re.fullmatch(r"([^-]+)-([^-]+)\.dist-info", name)
            if match:
                packages.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), set()).add(match[2])
    return packages
