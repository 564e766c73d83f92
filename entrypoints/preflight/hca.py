"""HCAs: usable here, named and driven as NVSHMEM expects, active, fast, capable of atomics, and without errors so far."""

import re

from entrypoints.preflight.model import Answer, Host, failed, not_run, passed, warned

#: Port counters that stay 0 on a healthy fabric (IBTA PortCounters, as sysfs names them).
ERROR_COUNTERS = (
    "symbol_error",
    "link_error_recovery",
    "link_downed",
    "port_rcv_errors",
    "port_rcv_remote_physical_errors",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
)
#: mlx5 hardware counters of retransmission (kernel drivers/infiniband/hw/mlx5/counters.c).
RETRY_COUNTERS = ("out_of_sequence", "packet_seq_err", "local_ack_timeout_err", "rnr_nak_retry_err", "roce_adp_retrans")
#: Verbs names of drivers that no prefix makes acceptable to IBGDA.
OTHER_PROVIDERS = ("mlx4", "efa", "rdmap", "bnxt_re", "irdma", "qib", "hfi1", "rxe", "siw", "erdma", "mana")


def devices(host: Host) -> Answer:
    """There is a fabric HCA for the GPUs, and its uverbs node opens here: sysfs alone shows host devices that a container may not use."""
    hcas = host.topology.hcas
    if not host.deepep:
        return passed(f"{len(hcas)} HCAs; {host.workload} needs none")
    names = ", ".join(hca.id for hca in hcas)
    if not hcas:
        remedy = "on the host: lspci -d 15b3: and the mlx5_core driver; in a container: --device=/dev/infiniband or an RDMA device plugin"
        if host.nodes == 1:
            return warned("no HCA: on one node only tests over NVLink can run", remedy)
        return failed("no HCA in /sys/class/infiniband", remedy)
    closed = [hca.id for hca in hcas if hca.openable is False]
    if len(closed) == len(hcas):
        return failed(
            f"{names}: no uverbs node opens here",
            "docker run --device=/dev/infiniband (pod: an rdma/... resource), and read-write permission on /dev/infiniband/uverbs*",
        )
    if all(hca.openable is None for hca in hcas):
        return not_run(f"{names} are in sysfs; whether /dev/infiniband/uverbs* opens only the running host can tell")
    fabric, gpus = len(host.fabric()), len(host.topology.gpus)
    evidence = f"{len(hcas)} HCAs ({names}), {fabric} with an active port, for {gpus} GPUs"
    if closed:
        return warned(
            f"{evidence}; not openable: {', '.join(closed)}",
            "pass all of /dev/infiniband, or exclude them: NVSHMEM lists every device it sees in sysfs",
        )
    if fabric < gpus:
        return warned(evidence, "GPUs share HCAs: expect at most the HCAs' joint line rate (DeepEP#60, #38)")
    return passed(evidence)


def driver(host: Host) -> Answer:
    """NVSHMEM's IBGDA and IBRC drive mlx5 alone."""
    if not host.topology.hcas:
        return not_run("no HCA")
    found: dict[str, str] = {}
    for hca in host.topology.hcas:
        name = hca.driver or host.files.link(f"sys/class/infiniband/{hca.id}/device/driver")
        if name is not None:
            found[hca.id] = name
    if not found:
        return not_run("no HCA has a readable driver link")
    fit = [name for name, kind in found.items() if kind == "mlx5_core"]
    shown = ", ".join(f"{name}: {kind}" for name, kind in found.items())
    others = [name for name in found if name not in fit]
    if not fit:
        remedy = "IBGDA needs ConnectX (mlx5); EFA, eRDMA and others: DeepEP V2 over NCCL GIN, or NVSHMEM's libfabric transport"
        return failed(shown, remedy) if host.workload == "deepep-v1" else warned(shown, remedy)
    if others:
        return warned(shown, f"keep them out: NVSHMEM_HCA_LIST names one mlx5 device per rank (plan does so), never {', '.join(others)}")
    return passed(f"{len(fit)} x mlx5_core")


def names(host: Host) -> Answer:
    """Device names must contain NVSHMEM_HCA_PREFIX (default mlx5), a substring test that NVSHMEM 3.3 does not offer."""
    fabric = [hca for hca, _ in host.fabric()] or list(host.topology.hcas)
    if not fabric or all(hca.name is None for hca in fabric):
        return not_run("no HCA with a known name")
    prefix = host.environ.get("NVSHMEM_HCA_PREFIX") or "mlx5"
    off = [hca.id for hca in fabric if prefix not in hca.id]
    if not off:
        return passed(f"{', '.join(hca.id for hca in fabric)} contain {prefix!r}")
    if any(name.startswith(OTHER_PROVIDERS) for name in off):
        return failed(
            f"{', '.join(off)}: not driven by mlx5, NVSHMEM rejects them",
            "no prefix helps: IBGDA needs ConnectX-4 or newer (see hca.driver)",
        )
    common = _common(off)
    remedy = (
        f"export NVSHMEM_HCA_PREFIX={common} (NVSHMEM 3.4 or newer; plan sets it), or rename by udev"
        if common
        else "rename by udev to mlx5_N"
    )
    return failed(f"{', '.join(off)} do not contain {prefix!r}: NVSHMEM skips them", remedy)


def _common(words: list[str]) -> str:
    """The longest common start of all names without trailing digits."""
    start = words[0]
    while start and not all(word.startswith(start) for word in words):
        start = start[:-1]
    return start.rstrip("0123456789")


def ports(host: Host) -> Answer:
    """A port ACTIVE on each fabric HCA, one link layer and one rate."""
    hcas = host.topology.hcas
    if not hcas:
        return not_run("no HCA")
    if all(port.state is None for hca in hcas for port in hca.ports):
        return not_run("no port has a readable state")
    fabric = host.fabric()
    down = [
        f"{hca.id} ({', '.join(port.state or 'unknown' for port in hca.ports)})" for hca in hcas if hca.ports and not _active(hca.ports)
    ]
    if not fabric:
        return failed(f"no active port: {', '.join(down)}", "cable, switch port and subnet manager: ibstat, ip link, mlxlink -d DEVICE")
    rates = {hca.id: port.rate_gbps for hca, port in fabric}
    layers = sorted({port.link_layer or "unknown" for _, port in fabric})
    shown = f"{len(fabric)} active {'/'.join(layers)} ports at {'/'.join(sorted({_rate(rate) for rate in rates.values()}))} Gb/s"
    best = max((rate or 0.0 for rate in rates.values()), default=0.0)
    slow = [name for name, rate in rates.items() if rate is not None and rate < best]
    if slow:
        return warned(
            f"{shown}; slower: {', '.join(slow)}",
            "leave the slower ones out (plan does), or bring the link up at full rate: mlxlink -d DEVICE",
        )
    if down:
        return warned(f"{shown}; down: {', '.join(down)}", "bring the link up, or accept fewer rails")
    return passed(shown)


def _active(found: tuple[object, ...]) -> bool:
    return any((getattr(port, "state", None) or "").upper().endswith("ACTIVE") for port in found)


def _rate(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:g}"


def atomics(host: Host) -> Answer:
    """RDMA atomics, which IBGDA's queue pairs need; NVSHMEM itself asks the firmware by DEVX."""
    fabric = [hca for hca, _ in host.fabric()]
    if not fabric:
        return not_run("no active port")
    absent = [hca.id for hca in fabric if hca.atomics is False]
    unknown = [hca.id for hca in fabric if hca.atomics is None]
    remedy = "leave it out with NVSHMEM_HCA_LIST; on a physical function: mlxconfig -d DEVICE set PCI_ATOMIC_MODE=4, then power-cycle"
    if absent:
        answer = failed if len(absent) == len(fabric) else warned
        return answer(f"no PCIe atomics: {', '.join(absent)}", remedy)
    if unknown:
        return not_run(
            f"{', '.join(unknown)}: PCIe capabilities are readable by root alone",
            "doctor --probe asks libibverbs (ibv_devinfo -v, atomic_cap)",
        )
    return passed(f"PCIe atomics on all {len(fabric)} fabric HCAs")


def counters(host: Host) -> Answer:
    """Error counters that are not 0 before the run: a cable or switch that already hurts."""
    fabric = host.fabric()
    if not fabric:
        return not_run("no active port")
    bad: list[str] = []
    seen = 0
    for hca, port in fabric:
        base = f"sys/class/infiniband/{hca.id}/ports/{port.number}"
        for folder, group in (("counters", ERROR_COUNTERS), ("hw_counters", RETRY_COUNTERS)):
            for name in group:
                value = host.files.number(f"{base}/{folder}/{name}")
                seen += value is not None
                if value:
                    bad.append(f"{hca.id} {name} {value}")
    if not seen:
        return not_run("no readable port counter")
    if bad:
        return warned(
            "; ".join(bad[:8]) + (f"; and {len(bad) - 8} more" if len(bad) > 8 else ""),
            "see whether they grow during a run (bench reports the difference); then cable, transceiver, switch port; RoCE: PFC and ECN",
        )
    return passed(f"{seen} error counters on {len(fabric)} HCAs are 0")


def port_width(host: Host) -> Answer:
    """The port runs with all four lanes of its connector."""
    seen: dict[str, str] = {}
    for hca, port in host.fabric():
        text = host.files.maybe(f"sys/class/infiniband/{hca.id}/ports/{port.number}/rate")
        found = re.search(r"\((\d+)X\b", text or "")
        if found:
            seen[hca.id] = found[1]
    if not seen:
        return not_run("no readable port rate")
    narrow = [f"{name} {width}X" for name, width in seen.items() if int(width) < 4]
    if narrow:
        return warned(
            f"narrow link: {', '.join(narrow)}",
            "a lane is down or the split cable is meant so: mlxlink -d DEVICE, reseat or replace the cable",
        )
    return passed(f"4X or wider on {len(seen)} ports")


def rail_firmware(host: Host) -> Answer:
    """One firmware per board type over all rails."""
    boards: dict[str, dict[str, list[str]]] = {}
    for hca, _ in host.fabric():
        if hca.firmware:
            boards.setdefault(hca.board or "unknown board", {}).setdefault(hca.firmware, []).append(hca.id)
    if not boards:
        return not_run("no readable firmware version")
    mixed = [
        f"{board}: " + ", ".join(f"{version} ({' '.join(ids)})" for version, ids in versions.items())
        for board, versions in boards.items()
        if len(versions) > 1
    ]
    if mixed:
        return warned("firmware differs: " + "; ".join(mixed), "bring all to the newest: mlxfwmanager --query")
    return passed("; ".join(f"{board} firmware {next(iter(versions))}" for board, versions in boards.items()))
