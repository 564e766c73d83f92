"""What the user already decided: device lists in the environment and options, checked against the topology."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from entrypoints.errors import UsageError
from entrypoints.placement.devices import is_active
from entrypoints.topology.model import Gpu, Hca, Topology


@dataclass(frozen=True)
class Choice:
    """One HCA and port that the user named; port None means any."""

    hca: Hca
    port: int | None = None


@dataclass(frozen=True)
class Wishes:
    """The user's own placement. `fixed` is by GPU index, or by local rank on hosts without GPUs."""

    fixed: Mapping[int, Choice]
    excluded: Mapping[str, str]
    #: Ports that NVSHMEM_HCA_LIST names, by HCA label.
    ports: Mapping[str, int]
    warnings: tuple[str, ...]


def find_hca(topology: Topology, text: str, where: str) -> Choice:
    """The HCA that "name", "name:port" or a bus id means. Raises UsageError naming the known ones."""
    name, port = text.strip(), None
    hca = _lookup(topology, name)
    if hca is None and (match := re.fullmatch(r"(.+?):(\d+)(?::\d+)?", name)):
        name, port = match[1], int(match[2])
        hca = _lookup(topology, name)
    if hca is None:
        names = ", ".join(hca.id for hca in topology.hcas) or "none"
        raise UsageError(f"no HCA is called {name!r} on this host", where=where, hint=f"known: {names}")
    if port is not None and hca.ports and port not in {p.number for p in hca.ports}:
        raise UsageError(f"{hca.id} has no port {port}", where=where, hint=f"its ports: {', '.join(str(p.number) for p in hca.ports)}")
    return Choice(hca, port)


def _lookup(topology: Topology, name: str) -> Hca | None:
    by_name = [hca for hca in topology.hcas if name in (hca.name, hca.label)]
    by_bus = [hca for hca in topology.hcas if hca.pci and hca.pci.lower() == name.lower()]
    return next(iter(by_name + by_bus), None)


def visible_gpus(topology: Topology, environ: Mapping[str, str]) -> list[Gpu]:
    """GPUs in the order in which CUDA will number them. Honours CUDA_VISIBLE_DEVICES (indices in bus order, GPU UUIDs).

    MIG instances are refused: a slice has no NVLink and DeepEP needs whole GPUs. As in CUDA, an empty list or -1 hides all.
    """
    gpus = sorted(topology.gpus, key=lambda gpu: gpu.index)
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None or not gpus:
        return gpus
    chosen: list[Gpu] = []
    for part in (part.strip() for part in text.split(",")):
        where = f"CUDA_VISIBLE_DEVICES={text}"
        if part in ("", "-1"):
            break
        if part.upper().startswith("MIG"):
            raise UsageError("a MIG instance cannot be placed: DeepEP needs whole GPUs", where=where, hint="use GPU indices or UUIDs")
        if part.isdecimal():
            named = [gpu for gpu in gpus if gpu.index == int(part)]
        elif all(gpu.uuid is None for gpu in gpus):
            raise UsageError("this topology has no GPU UUIDs", where=where, hint="use indices in bus order")
        else:
            # CUDA accepts any unique prefix of a UUID.
            named = [gpu for gpu in gpus if (gpu.uuid or "").lower().startswith(part.lower())]
        if len(named) != 1:
            indices = ", ".join(str(gpu.index) for gpu in gpus)
            raise UsageError(f"{part!r} names {len(named) or 'no'} GPUs of this host", where=where, hint=f"indices: {indices}")
        if named[0] in chosen:
            raise UsageError(f"GPU {named[0].index} is listed twice", where=where, hint="CUDA refuses such a list")
        chosen += named
    return chosen


def parse_device_mapping(text: str) -> dict[int, str]:
    """DEEP_EP_DEVICE_TO_HCA_MAPPING ("0:mlx5_0:1,1:mlx5_1:1") as GPU index -> "name[:port]"."""
    mapping: dict[int, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        index, _, name = entry.partition(":")
        if not index.isdecimal() or not name:
            where = f"DEEP_EP_DEVICE_TO_HCA_MAPPING={text}"
            raise UsageError(f"bad entry {entry!r}", where=where, hint="write GPU:HCA[:PORT], as in 0:mlx5_0:1,1:mlx5_1:1")
        mapping[int(index)] = name
    return mapping


def read_wishes(
    topology: Topology,
    environ: Mapping[str, str],
    gpus: Sequence[Gpu | None],
    hca_overrides: Mapping[int, str],
    exclude_hca: Sequence[str],
    workload: str,
) -> Wishes:
    """All of the user's choices, validated. `gpus` are the GPUs of the local ranks, in rank order."""
    warnings: list[str] = []
    excluded = {find_hca(topology, name, f"--exclude-hca {name}").hca.label: "excluded by --exclude-hca" for name in exclude_hca}
    fixed: dict[int, Choice] = {}
    mapping = environ.get("DEEP_EP_DEVICE_TO_HCA_MAPPING", "")
    for index, name in parse_device_mapping(mapping).items():
        choice = find_hca(topology, name, f"DEEP_EP_DEVICE_TO_HCA_MAPPING={mapping}")
        if index in {gpu.index for gpu in topology.gpus} or not topology.gpus:
            fixed[index] = choice
        else:
            raise UsageError(f"no GPU {index} on this host", where=f"DEEP_EP_DEVICE_TO_HCA_MAPPING={mapping}")
    for rank, name in hca_overrides.items():
        if not 0 <= rank < len(gpus):
            raise UsageError(f"no local rank {rank}", where=f"--hca {rank}={name}", hint=f"ranks are 0-{len(gpus) - 1}")
        gpu = gpus[rank]
        key = rank if gpu is None else gpu.index
        choice = find_hca(topology, name, f"--hca {rank}={name}")
        if key in fixed and fixed[key] != choice:
            warnings.append(f"rank {rank}: --hca {name} goes before DEEP_EP_DEVICE_TO_HCA_MAPPING's {fixed[key].hca.id}")
        fixed[key] = choice
    ports = _nvshmem_lists(topology, environ, len(gpus), excluded, warnings)
    if workload == "deepep-v2":
        _nccl_list(topology, environ, excluded, warnings)
    for key, choice in fixed.items():
        subject = f"rank {key}" if not topology.gpus else f"GPU {key}"
        if any(port.number == (choice.port or port.number) and is_active(port) is False for port in choice.hca.ports):
            warnings.append(f"{subject}: {choice.hca.id} was asked for, but its port is not active")
        if choice.hca.label in excluded:
            warnings.append(f"{subject}: {choice.hca.id} was asked for by name, although {excluded[choice.hca.label]}")
    return Wishes(fixed, excluded, ports, tuple(warnings))


def _nvshmem_lists(
    topology: Topology, environ: Mapping[str, str], ranks: int, excluded: dict[str, str], warnings: list[str]
) -> dict[str, int]:
    """NVSHMEM_HCA_LIST, else NVSHMEM_HCA_PE_MAPPING, as exclusions; returns the ports that it names, by HCA label.

    NVSHMEM keeps devices in enumeration order whatever the order of the list, and in high-throughput mode every rank is the only PE
    of its world, so a list of many sends all ranks to its first device (DeepEP #336, PR #466).
    """
    for variable in ("NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PE_MAPPING"):
        text = environ.get(variable, "").strip()
        if not text:
            continue
        where = f"{variable}={text}"
        if not any(hca.name for hca in topology.hcas):
            warnings.append(f"{where} cannot be checked: this topology has no HCA with a known name")
            continue
        negative = text.startswith("^")
        if text.startswith("="):
            raise UsageError("NVSHMEM knows no '=' prefix (that is NCCL_IB_HCA's)", where=where, hint="remove it")
        entries = [part.strip() for part in text.lstrip("^").split(",") if part.strip()]
        choices = [find_hca(topology, entry, where) for entry in entries]
        labels = {choice.hca.label for choice in choices}
        _exclude(topology, labels, negative, variable, excluded)
        if negative:
            return {}
        if len(labels) > 1 and ranks > 1:
            paired = environ.get("NVSHMEM_ENABLE_NIC_PE_MAPPING", "0")[:1].lower() not in "0nf"
            warnings.append(
                f"{variable} names {len(labels)} HCAs for every rank{' with NVSHMEM_ENABLE_NIC_PE_MAPPING=1' * paired}: in high-throughput "
                "mode all ranks would use the first (DeepEP #336, PR #466). It is taken as the list of allowed HCAs, and each rank gets one"
            )
        elif ranks > 1:
            warnings.append(f"{variable} names one HCA for all {ranks} ranks: they share it, as you asked")
        return {choice.hca.label: choice.port for choice in choices if choice.port is not None}
    return {}


def _nccl_list(topology: Topology, environ: Mapping[str, str], excluded: dict[str, str], warnings: list[str]) -> None:
    """NCCL_IB_HCA: [^][=]name[:port],...; without "=" names are prefixes (NCCL's documentation of NCCL_IB_HCA)."""
    text = environ.get("NCCL_IB_HCA", "").strip()
    if not text or not any(hca.name for hca in topology.hcas):
        return
    negative = text.startswith("^")
    exact = text.lstrip("^").startswith("=")
    labels: set[str] = set()
    for entry in (part.strip() for part in text.lstrip("^=").split(",") if part.strip()):
        name = entry.split(":")[0]
        matches = {hca.label for hca in topology.hcas if hca.id == name or (not exact and hca.id.startswith(name))}
        if not matches:
            names = ", ".join(hca.id for hca in topology.hcas)
            raise UsageError(f"no HCA matches {name!r} on this host", where=f"NCCL_IB_HCA={text}", hint=f"known: {names}")
        labels |= matches
    if not exact and not negative and len(labels) > len(text.split(",")):
        warnings.append(f"NCCL_IB_HCA={text} matches by prefix and means {len(labels)} HCAs; a leading = makes names exact")
    _exclude(topology, labels, negative, "NCCL_IB_HCA", excluded)


def _exclude(topology: Topology, labels: set[str], negative: bool, variable: str, excluded: dict[str, str]) -> None:
    """Note the HCAs that a list leaves out: those in it when it begins with "^", else the others."""
    for hca in topology.hcas:
        if negative == (hca.label in labels):
            excluded.setdefault(hca.label, f"excluded by {variable}" if negative else f"not in {variable}")
