"""Which HCAs may serve a rank, and for each that may not, why (DESIGN: the fabric's rails and nothing else)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from entrypoints.placement.devices import active_ports, foreign_driver, is_software, link_layer, rate
from entrypoints.placement.distance import NEAR, Levels, hca_order
from entrypoints.topology.model import Gpu, Hca

#: Workloads whose transport is NVSHMEM's IBGDA, which drives only mlx5 devices and needs PCIe or HCA atomics.
IBGDA_WORKLOADS = ("deepep-v1", "deepep-v2")

#: Names that operators give to functions outside the compute fabric; used only where nothing structural is known.
SIDE_NAMES = re.compile(r"(_an\d|eth\d|_?bond|mgmt|stor|front|vpc|_fe\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Candidates:
    """HCAs to match over, in bus order; those left out with reasons; and whether IBGDA can drive the rest."""

    hcas: tuple[Hca, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    #: Why NVSHMEM's IBGDA cannot use these HCAs ("AWS EFA"); None when it can.
    foreign: str | None = None


class _Sieve:
    """The HCAs still in, and the reasons of those that are out. A soft rule never removes the last ones."""

    def __init__(self, hcas: Sequence[Hca]) -> None:
        self.kept = sorted(hcas, key=hca_order)
        self.excluded: list[tuple[str, str]] = []

    def drop(self, reason: Callable[[Hca], str | None], *, soft: bool = True) -> bool:
        """Remove those for which `reason` gives one; False when a soft rule would have removed all."""
        reasons = {hca.label: reason(hca) for hca in self.kept}
        stay = [hca for hca in self.kept if reasons[hca.label] is None]
        if soft and not stay:
            return False
        self.excluded += [(hca.id, reasons[hca.label] or "") for hca in self.kept if reasons[hca.label] is not None]
        self.kept = stay
        return True


def find(
    hcas: Sequence[Hca],
    gpus: Sequence[Gpu],
    levels: Levels,
    *,
    workload: str = "deepep-v1",
    user_excluded: dict[str, str] | None = None,
) -> Candidates:
    """Sieve the host's HCAs. `user_excluded` maps labels to the user's own reason.

    `gpus` are all GPUs of the host, visible or not: where a NIC sits does not depend on who may see which GPU.
    """
    sieve = _Sieve(hcas)
    ibgda = workload in IBGDA_WORKLOADS
    warnings: list[str] = []
    sieve.drop(lambda hca: (user_excluded or {}).get(hca.label), soft=False)
    sieve.drop(_port_down, soft=False)
    sieve.drop(lambda hca: "its /dev/infiniband/uverbs device cannot be opened here" if hca.openable is False else None, soft=False)
    sieve.drop(lambda hca: "software RDMA device" if is_software(hca) else None, soft=not ibgda)
    foreign = None
    if ibgda and not sieve.drop(lambda hca: f"{d}: NVSHMEM's IBGDA cannot drive it" if (d := foreign_driver(hca)) else None):
        foreign = foreign_driver(sieve.kept[0]) if sieve.kept else None
    lacks = "lacks the PCIe atomics that IBGDA needs"
    if ibgda and not foreign and not sieve.drop(lambda hca: lacks if hca.atomics is False else None) and sieve.kept:
        warnings.append("every usable HCA lacks PCIe atomics: NVSHMEM's IBGDA will reject them (mlxconfig set PCI_ATOMIC_MODE=4)")
    sieve.drop(_twin_rule(sieve.kept))
    sieve.drop(_fabric_rule(sieve.kept, gpus, levels))
    sieve.drop(_rate_rule(sieve.kept, gpus, levels, warnings))
    sieve.drop(_structure_rule(sieve.kept, gpus, levels))
    sieve.drop(_name_rule(sieve.kept, gpus, levels))
    place = {hca.id: hca_order(hca) for hca in hcas}
    return Candidates(tuple(sieve.kept), tuple(sorted(sieve.excluded, key=lambda pair: place[pair[0]])), tuple(warnings), foreign)


def _port_down(hca: Hca) -> str | None:
    if not hca.ports or active_ports(hca):
        return None
    states = ", ".join(f"port {port.number} is {port.state}" for port in hca.ports)
    return f"no active port ({states})"


def near_gpus(hca: Hca, gpus: Sequence[Gpu], levels: Levels) -> list[int]:
    """GPUs that share a PCIe switch with this HCA."""
    return [gpu.index for gpu in gpus if levels.get((gpu.index, hca.label)) in NEAR]


def _is_far(hca: Hca, gpus: Sequence[Gpu], levels: Levels) -> bool:
    """Across a host bridge from every GPU. `gpus` should be those whose levels are to be trusted, see `_telling`."""
    return bool(gpus) and all(levels.get((gpu.index, hca.label)) in ("NODE", "SYS") for gpu in gpus)


def _telling(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Sequence[Gpu]:
    """GPUs that must be far from a NIC before it counts as far from all.

    A GPU with unknown levels (a cut matrix row) may have a NIC of its own where every other GPU has one; where others
    have none, it need not.
    """
    known = [gpu for gpu in gpus if all(levels.get((gpu.index, hca.label)) for hca in hcas)]
    bare = [gpu for gpu in known if not any(levels.get((gpu.index, hca.label)) in NEAR for hca in hcas)]
    return known if bare else gpus


def _twin_rule(hcas: Sequence[Hca]) -> Callable[[Hca], str | None]:
    """A VF beside its PF, two VFs of one PF, or a bond's member beside the bond: one wire must not count twice."""
    functions = {hca.pci: hca for hca in hcas if hca.pci and not hca.physical_function}
    first_vf: dict[str, Hca] = {}
    for hca in hcas:
        if hca.physical_function:
            first_vf.setdefault(hca.physical_function, hca)
    # By the bus id alone: in a matrix, "one card" may also mean two cards of one switch.
    slots = {hca.label: hca.pci.rpartition(".")[0] for hca in hcas if hca.pci}
    bonds = {slots[hca.label]: hca for hca in hcas if "bond" in (hca.name or "").lower() and hca.label in slots}

    def reason(hca: Hca) -> str | None:
        pf = hca.physical_function
        if pf and pf in functions:
            return f"virtual function of {functions[pf].id}, which is here itself"
        if pf and first_vf[pf] is not hca:
            return f"second virtual function of one physical function, after {first_vf[pf].id}"
        bond = bonds.get(slots.get(hca.label, ""))
        if bond is not None and "bond" not in (hca.name or "").lower():
            return f"member of {bond.id}"
        return None

    return reason


def _fabric_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Callable[[Hca], str | None]:
    """InfiniBand only, if any is active; unless Ethernet rails sit at the GPUs and InfiniBand at none (storage IB)."""
    ib = [hca for hca in hcas if link_layer(hca) == "InfiniBand"]
    ethernet = [hca for hca in hcas if link_layer(hca) == "Ethernet"]
    served = {gpu for hca in ethernet for gpu in near_gpus(hca, gpus, levels)}
    if ib and len(served) * 2 >= len(gpus) > 0 and all(_is_far(hca, gpus, levels) for hca in ib):
        return lambda hca: "InfiniBand away from all GPUs, while Ethernet rails sit at them: storage" if hca in ib else None
    return lambda hca: "Ethernet, beside an InfiniBand fabric" if ib and hca in ethernet else None


def _rate_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels, warnings: list[str]) -> Callable[[Hca], str | None]:
    """The top rate class only. A GPU's own rail that trained to half rate stays: sharing a neighbour would be no faster."""
    rates = {hca.label: value for hca in hcas if (value := rate(hca))}
    top = max(rates.values(), default=0.0)
    slow = [hca for hca in hcas if rates.get(hca.label, top) < top]
    served = {gpu for hca in hcas if hca not in slow for gpu in near_gpus(hca, gpus, levels)}
    degraded = [hca for hca in slow if 2 * rates[hca.label] >= top and set(near_gpus(hca, gpus, levels)) - served]
    for hca in degraded:
        warnings.append(f"{hca.id} runs at {rates[hca.label]:g} Gb/s while other rails run at {top:g}: check its cable and switch port")

    def reason(hca: Hca) -> str | None:
        return f"{rates[hca.label]:g} Gb/s, beside {top:g} Gb/s rails" if hca in slow and hca not in degraded else None

    return reason


def _structure_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Callable[[Hca], str | None]:
    """NICs that are near no GPU, while others share a switch with one, are storage or management."""
    near = [hca for hca in hcas if near_gpus(hca, gpus, levels)]
    telling = _telling(hcas, gpus, levels)
    kinds = {(hca.board, rate(hca), link_layer(hca)) for hca in near}
    alike = [
        hca
        for hca in hcas
        if _is_far(hca, telling, levels) and None not in (kind := (hca.board, rate(hca), link_layer(hca))) and kind in kinds
    ]
    # The same card model at the same rate on the same kind of link, and rails are short: rails in far slots, if then every rail
    # serves as many GPUs as the next. Four rails and one more card of their kind are four rails and a storage card.
    far_rails = alike if 0 < len(near) < len(gpus) and len(gpus) % (len(near) + len(alike)) == 0 else []

    def reason(hca: Hca) -> str | None:
        if not near or hca in far_rails or not _is_far(hca, telling, levels):
            return None
        best = "NODE" if any(levels.get((gpu.index, hca.label)) == "NODE" for gpu in gpus) else "SYS"
        return f"near none of the GPUs ({best} at best), while {len(near)} others share a switch with one: not their rail"

    return reason


def _name_rule(hcas: Sequence[Hca], gpus: Sequence[Gpu], levels: Levels) -> Callable[[Hca], str | None]:
    """Last resort: a name that says side network, unless the NIC is the only one near some GPU."""
    side = [hca for hca in hcas if SIDE_NAMES.search(hca.name or "")]
    served = {gpu for hca in hcas if hca not in side for gpu in near_gpus(hca, gpus, levels)}

    def reason(hca: Hca) -> str | None:
        if hca not in side or set(near_gpus(hca, gpus, levels)) - served:
            return None
        return "its name says a side network (bond, Ethernet or accelerated networking), not a rail"

    return reason
