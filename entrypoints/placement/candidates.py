"""Which HCAs may serve a rank, and for each that may not, why (DESIGN: the fabric's rails and nothing else).

A rule is a function that gives the reason for which an HCA is no candidate, or None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from entrypoints.facts.container import need
from entrypoints.facts.nics import is_software, side_network
from entrypoints.placement.devices import NEAR, Levels, active_ports, foreign_driver, hca_order, link_layer, rate_gbit
from entrypoints.topology.model import Gpu, Hca

#: Workloads whose transport is NVSHMEM's IBGDA, which drives only mlx5 devices and needs PCIe or HCA atomics.
IBGDA_WORKLOADS = ("deepep-v1", "deepep-v2")

Rule = Callable[[Hca], str | None]


@dataclass(frozen=True)
class Candidates:
    """HCAs to match over, in bus order; those left out with reasons; and whether IBGDA can drive the rest."""

    hcas: tuple[Hca, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    #: Why NVSHMEM's IBGDA cannot use these HCAs ("AWS EFA"); None when it can.
    foreign: str | None = None


class _Selection:
    """The HCAs that are still candidates, in bus order, and the reasons of those that are not."""

    def __init__(self, hcas: Sequence[Hca]) -> None:
        self.candidates = sorted(hcas, key=hca_order)
        self._reasons: dict[str, str] = {}

    def exclude(self, rule: Rule) -> None:
        """Drop the HCAs for which the rule has a reason, all of them if need be."""
        reasons = {hca.label: rule(hca) for hca in self.candidates}
        self._reasons |= {label: reason for label, reason in reasons.items() if reason is not None}
        self.candidates = [hca for hca in self.candidates if reasons[hca.label] is None]

    def prefer(self, rule: Rule) -> bool:
        """Drop the HCAs for which the rule has a reason, unless none would stay; then False, and all stay."""
        if not any(rule(hca) is None for hca in self.candidates):
            return False
        self.exclude(rule)
        return True

    def excluded(self, hcas: Sequence[Hca]) -> tuple[tuple[str, str], ...]:
        """(id, reason) of those that are no candidates, in bus order."""
        return tuple((hca.id, self._reasons[hca.label]) for hca in sorted(hcas, key=hca_order) if hca.label in self._reasons)


def find(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels, *, workload: str, user_excluded: Mapping[str, str]) -> Candidates:
    """The HCAs of a host that may serve ranks. `user_excluded` maps labels to the user's own reason.

    `gpus` are all GPUs of the host, visible or not: where a NIC sits does not depend on who may see which GPU.
    """
    warnings: list[str] = []
    foreign = None
    selection = _Selection(hcas)
    selection.exclude(lambda hca: user_excluded.get(hca.label))
    selection.exclude(_port_down)
    selection.exclude(_closed)
    if workload in IBGDA_WORKLOADS:
        selection.exclude(_software_device)
        foreign = _select_for_ibgda(selection, warnings)
    else:
        selection.prefer(_software_device)
    selection.prefer(_twin_rule(selection.candidates))
    for make_rule in (_fabric_rule, partial(_rate_rule, warnings=warnings), _structure_rule, _name_rule):
        selection.prefer(make_rule(selection.candidates, gpus, levels))
    return Candidates(tuple(selection.candidates), selection.excluded(hcas), tuple(warnings), foreign)


def _select_for_ibgda(selection: _Selection, warnings: list[str]) -> str | None:
    """Leave what IBGDA can drive. What the rest is called, where it can drive none of them ("AWS EFA")."""
    if not selection.candidates:
        return None
    if not selection.prefer(_foreign):
        return foreign_driver(selection.candidates[0])
    if not selection.prefer(_without_atomics):
        warnings.append("every usable HCA lacks PCIe atomics: NVSHMEM's IBGDA will reject them (mlxconfig set PCI_ATOMIC_MODE=4)")
    return None


def _port_down(hca: Hca) -> str | None:
    if not hca.ports or active_ports(hca):
        return None
    states = ", ".join(f"port {port.number} is {port.state}" for port in hca.ports)
    return f"no active port ({states})"


def _closed(hca: Hca) -> str | None:
    return f"its {need('rdma-devices').value}/uverbs device cannot be opened here" if hca.openable is False else None


def _software_device(hca: Hca) -> str | None:
    return "software RDMA device" if is_software(hca.driver, hca.vendor, hca.name) else None


def _foreign(hca: Hca) -> str | None:
    driver = foreign_driver(hca)
    return f"{driver}: NVSHMEM's IBGDA cannot drive it" if driver else None


def _without_atomics(hca: Hca) -> str | None:
    return "lacks the PCIe atomics that IBGDA needs" if hca.atomics is False else None


def near_gpus(hca: Hca, gpus: Sequence[Gpu], levels: Levels) -> set[int]:
    """GPUs that share a PCIe switch with this HCA."""
    return {gpu.index for gpu in gpus if levels.get((gpu.index, hca.label)) in NEAR}


def _is_far(hca: Hca, gpus: Sequence[Gpu], levels: Levels) -> bool:
    """Across a host bridge from every GPU. `gpus` should be those whose levels are to be trusted, see `_telling`."""
    return bool(gpus) and all(levels.get((gpu.index, hca.label)) in ("NODE", "SYS") for gpu in gpus)


def _telling(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Sequence[Gpu]:
    """GPUs that must be far from a NIC before it counts as far from all.

    A GPU with unknown levels (a cut matrix row) may have a NIC of its own where every other GPU has one; where others
    have none, it need not.
    """
    located = [gpu for gpu in gpus if all(levels.get((gpu.index, hca.label)) for hca in hcas)]
    bare = [gpu for gpu in located if not any(levels.get((gpu.index, hca.label)) in NEAR for hca in hcas)]
    return located if bare else gpus


def _twin_rule(hcas: Sequence[Hca]) -> Rule:
    """A VF beside its PF, two VFs of one PF, or a bond's member beside the bond: one wire must not count twice."""
    functions = {hca.pci: hca for hca in hcas if hca.pci and not hca.physical_function}
    first_vf: dict[str, Hca] = {}
    for hca in hcas:
        if hca.physical_function:
            first_vf.setdefault(hca.physical_function, hca)
    # By the bus id alone: in a matrix, "one card" may also mean two cards of one switch.
    slots = {hca.label: hca.pci.rpartition(".")[0] for hca in hcas if hca.pci}
    bonds = {slots[hca.label]: hca for hca in hcas if "bond" in (hca.name or "").lower() and hca.label in slots}

    def twin(hca: Hca) -> str | None:
        pf = hca.physical_function
        if pf and pf in functions:
            return f"virtual function of {functions[pf].id}, which is here itself"
        if pf and first_vf[pf] is not hca:
            return f"second virtual function of one physical function, after {first_vf[pf].id}"
        bond = bonds.get(slots.get(hca.label, ""))
        if bond is not None and "bond" not in (hca.name or "").lower():
            return f"member of {bond.id}"
        return None

    return twin


def _fabric_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Rule:
    """InfiniBand only, if any is active; unless Ethernet rails sit at the GPUs and InfiniBand at none (storage IB)."""
    ib = [hca for hca in hcas if link_layer(hca) == "InfiniBand"]
    ethernet = [hca for hca in hcas if link_layer(hca) == "Ethernet"]
    served = {gpu for hca in ethernet for gpu in near_gpus(hca, gpus, levels)}
    if ib and len(served) * 2 >= len(gpus) > 0 and all(_is_far(hca, gpus, levels) for hca in ib):
        return lambda hca: "InfiniBand away from all GPUs, while Ethernet rails sit at them: storage" if hca in ib else None
    return lambda hca: "Ethernet, beside an InfiniBand fabric" if ib and hca in ethernet else None


def _rate_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels, warnings: list[str]) -> Rule:
    """The top rate class only. A GPU's own rail that trained to half rate stays: sharing a neighbour would be no faster."""
    rates = {hca.label: rate for hca in hcas if (rate := rate_gbit(hca))}
    top = max(rates.values(), default=0.0)
    slow = [hca for hca in hcas if rates.get(hca.label, top) < top]
    served = {gpu for hca in hcas if hca not in slow for gpu in near_gpus(hca, gpus, levels)}
    degraded = [hca for hca in slow if 2 * rates[hca.label] >= top and near_gpus(hca, gpus, levels) - served]
    for hca in degraded:
        warnings.append(f"{hca.id} runs at {rates[hca.label]:g} Gb/s while other rails run at {top:g}: check its cable and switch port")
    return lambda hca: f"{rates[hca.label]:g} Gb/s, beside {top:g} Gb/s rails" if hca in slow and hca not in degraded else None


def _structure_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Rule:
    """NICs that are near no GPU, while others share a switch with one, are storage or management."""
    near = [hca for hca in hcas if near_gpus(hca, gpus, levels)]
    telling = _telling(hcas, gpus, levels)
    far = [hca for hca in hcas if _is_far(hca, telling, levels)]
    kinds = {_kind(hca) for hca in near} - {None}
    alike = [hca for hca in far if _kind(hca) in kinds]
    # The same card model at the same rate on the same kind of link, and rails are short: rails in far slots, if then every rail
    # serves as many GPUs as the next. Four rails and one more card of their kind are four rails and a storage card.
    far_rails = alike if 0 < len(near) < len(gpus) and len(gpus) % (len(near) + len(alike)) == 0 else []

    def no_rail(hca: Hca) -> str | None:
        if not near or hca not in far or hca in far_rails:
            return None
        best = "NODE" if any(levels.get((gpu.index, hca.label)) == "NODE" for gpu in gpus) else "SYS"
        return f"near none of the GPUs ({best} at best), while {len(near)} others share a switch with one: not their rail"

    return no_rail


def _kind(hca: Hca) -> tuple[str, float, str] | None:
    """Card model, rate and link layer of an HCA; None unless all three are known."""
    board, rate, layer = hca.board, rate_gbit(hca), link_layer(hca)
    return None if board is None or rate is None or layer is None else (board, rate, layer)


def _name_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Rule:
    """Last resort: a name that says side network, unless the NIC is the only one near some GPU."""
    served = {gpu for hca in hcas if not side_network(hca.name) for gpu in near_gpus(hca, gpus, levels)}
    return lambda hca: None if near_gpus(hca, gpus, levels) - served else side_network(hca.name)
