"""Which GPUs and HCAs of a NUMA node sit behind one switch, by their paths or by stated levels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from entrypoints.topology.model import Gpu, Hca, Topology
from entrypoints.topology.values import bus_id


@dataclass
class Group:
    """Devices in one frame."""

    title: str
    gpus: list[Gpu] = field(default_factory=list)
    hcas: list[Hca] = field(default_factory=list)


def groups_of(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> tuple[list[Group], Group]:
    """Groups of at least two devices behind one switch or card, and the devices that share nothing but the node."""
    groups = _by_path(gpus, hcas)
    if topology.levels:
        groups += _by_level(topology, [g for g in gpus if not g.pci_path], [h for h in hcas if not h.pci_path])
    inside_gpus = {gpu.index for group in groups for gpu in group.gpus}
    inside_hcas = {hca.label for group in groups for hca in group.hcas}
    loose = Group("", [gpu for gpu in gpus if gpu.index not in inside_gpus], [hca for hca in hcas if hca.label not in inside_hcas])
    groups.sort(key=lambda group: min((gpu.index for gpu in group.gpus), default=1 << 20))
    return groups, loose


def _by_path(gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> list[Group]:
    """One group a topmost bridge that several devices share, named by the lowest bridge that all of them share."""
    by_top: dict[str, list[Gpu | Hca]] = {}
    every: tuple[Gpu | Hca, ...] = (*gpus, *hcas)
    for device in every:
        bridges = [pci for pci in device.pci_path if bus_id(pci) == pci]
        if bridges:
            by_top.setdefault(bridges[0], []).append(device)
    groups = []
    for devices in by_top.values():
        if len(devices) < 2:
            continue
        paths = [[pci for pci in device.pci_path if bus_id(pci) == pci] for device in devices]
        common = 0
        while all(len(path) > common and path[common] == paths[0][common] for path in paths):
            common += 1
        name = paths[0][common - 1]
        slots = {(device.pci or "").rpartition(".")[0] for device in devices}
        title = f"card at {name}" if len(slots) == 1 else f"switch {name}"
        groups.append(Group(title, [d for d in devices if isinstance(d, Gpu)], [d for d in devices if isinstance(d, Hca)]))
    return groups


def _by_level(topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> list[Group]:
    """Groups joined by PIX or PXB in a source that states levels."""
    group_of: dict[object, Group] = {}
    levels: dict[int, set[str]] = {}
    for gpu in gpus:
        for hca in hcas:
            level = topology.levels.get((gpu.index, hca.label))
            if level not in ("PIX", "PXB"):
                continue
            mine, theirs = group_of.get(gpu.index), group_of.get(hca.label)
            if mine is None and theirs is None:
                mine = theirs = Group("")
            elif mine is not None and theirs is not None and mine is not theirs:
                mine.gpus += theirs.gpus
                mine.hcas += theirs.hcas
                levels.setdefault(id(mine), set()).update(levels.get(id(theirs), set()))
                for key in (*(g.index for g in theirs.gpus), *(h.label for h in theirs.hcas)):
                    group_of[key] = mine
            group = mine or theirs
            assert group is not None
            if gpu.index not in group_of:
                group.gpus.append(gpu)
            if hca.label not in group_of:
                group.hcas.append(hca)
            group_of[gpu.index] = group_of[hca.label] = group
            levels.setdefault(id(group), set()).add(level)
    unique = list({id(group): group for group in group_of.values()}.values())
    for group in unique:
        group.title = " and ".join(sorted(levels[id(group)]))
    return unique
