"""HCAs (usable here, driven as NVSHMEM expects, active, fast, without errors so far), their GIDs and MTU, and PCIe to the GPUs."""

import os.path
import re
import struct
from contextlib import suppress

from entrypoints.facts.container import need
from entrypoints.facts.nics import DEFAULT_HCA_PREFIX, foreign_names, foreign_to_ibgda, is_routable_gid
from entrypoints.placement.devices import is_active
from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import V1, Answer, Host, failed, not_run, passed, warned

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
#: ACS control bits that send peer-to-peer traffic up to the root (PCIe 5.0, 7.7.11.3): request and completion redirect, egress control.
ACS_REDIRECT = 0x2C
#: Usable Gbit/s of one lane after encoding, by raw GT/s.
LANE_GBIT = {"2.5": 2.0, "5.0": 4.0, "8.0": 7.9, "16.0": 15.8, "32.0": 31.5, "64.0": 60.5}


def devices(host: Host) -> Answer:
    """There is a fabric HCA for the GPUs, and its uverbs node opens here: sysfs alone shows host devices that a container may not use."""
    hcas, verbs = host.topology.hcas, need("rdma-devices")
    if not host.deepep:
        return passed(f"{len(hcas)} HCAs; {host.workload} needs none")
    names = ", ".join(hca.id for hca in hcas)
    if not hcas:
        remedy = f"on the host: lspci -d 15b3: and the mlx5_core driver; in a container: {verbs.docker} or an RDMA device plugin"
        if host.nodes == 1:
            return warned("no HCA: on one node only tests over NVLink can run", remedy)
        return failed("no HCA in /sys/class/infiniband", remedy)
    closed = [hca.id for hca in hcas if hca.openable is False]
    if len(closed) == len(hcas):
        remedy = f"docker run {verbs.docker} (pod: an rdma/... resource), and read-write permission on {verbs.value}/uverbs*"
        return failed(f"{names}: no uverbs node opens here", remedy)
    if all(hca.openable is None for hca in hcas):
        return not_run(f"{names} are in sysfs; whether {verbs.value}/uverbs* opens only the running host can tell")
    fabric, gpus = len(host.fabric()), len(host.topology.gpus)
    evidence = f"{len(hcas)} HCAs ({names}), {fabric} with an active port, for {gpus} GPUs"
    if closed:
        remedy = f"pass all of {verbs.value}, or exclude them: NVSHMEM lists every device it sees in sysfs"
        return warned(f"{evidence}; not openable: {', '.join(closed)}", remedy)
    if fabric < gpus:
        return warned(evidence, "GPUs share HCAs: expect at most the HCAs' joint line rate (DeepEP#60, #38)")
    return passed(evidence)


def driver(host: Host) -> Answer:
    """NVSHMEM's IBGDA and IBRC drive mlx5 alone."""
    if not host.topology.hcas:
        return not_run("no HCA")
    drivers = {hca: hca.driver or host.files.link(f"sys/class/infiniband/{hca.id}/device/driver") for hca in host.topology.hcas}
    drivers = {hca: driver for hca, driver in drivers.items() if driver}
    if not drivers:
        return not_run("no HCA has a readable driver link")
    foreign = [hca.id for hca, driver in drivers.items() if foreign_to_ibgda(driver, hca.vendor, hca.name)]
    evidence = ", ".join(f"{hca.id}: {driver}" for hca, driver in drivers.items())
    if len(foreign) == len(drivers):
        remedy = "IBGDA needs ConnectX (mlx5); EFA, eRDMA and others: DeepEP V2 over NCCL GIN, or NVSHMEM's libfabric transport"
        return failed(evidence, remedy) if host.workload == V1 else warned(evidence, remedy)
    if foreign:
        remedy = f"keep them out: NVSHMEM_HCA_LIST names one mlx5 device per rank (plan does so), never {', '.join(foreign)}"
        return warned(evidence, remedy)
    return passed(f"{len(drivers)} x {'/'.join(sorted(set(filter(None, drivers.values()))))}")


def names(host: Host) -> Answer:
    """Device names must contain NVSHMEM_HCA_PREFIX (default mlx5), a substring test that NVSHMEM 3.3 does not offer."""
    fabric = [hca for hca, _ in host.fabric()] or list(host.topology.hcas)
    if not fabric or all(hca.name is None for hca in fabric):
        return not_run("no HCA with a known name")
    prefix = host.environ.get("NVSHMEM_HCA_PREFIX") or DEFAULT_HCA_PREFIX
    off = [hca.id for hca in fabric if prefix not in hca.id]
    if not off:
        return passed(f"{', '.join(hca.id for hca in fabric)} contain {prefix!r}")
    if any(name.startswith(foreign_names()) for name in off):
        remedy = "no prefix helps: IBGDA needs ConnectX-4 or newer (see hca.driver)"
        return failed(f"{', '.join(off)}: not driven by mlx5, NVSHMEM rejects them", remedy)
    common = os.path.commonprefix(off).rstrip("0123456789")  # noqa: RUF071 - names and no paths
    remedy = "rename by udev to mlx5_N"
    if common:
        remedy = f"export NVSHMEM_HCA_PREFIX={common} (NVSHMEM 3.4 or newer; plan sets it), or rename by udev"
    return failed(f"{', '.join(off)} do not contain {prefix!r}: NVSHMEM skips them", remedy)


def ports(host: Host) -> Answer:
    """A port ACTIVE on each fabric HCA, one link layer and one rate."""
    hcas = host.topology.hcas
    if not hcas:
        return not_run("no HCA")
    if all(port.state is None for hca in hcas for port in hca.ports):
        return not_run("no port has a readable state")
    fabric = host.fabric()
    down = [
        f"{hca.id} ({', '.join(port.state or 'unknown' for port in hca.ports)})"
        for hca in hcas
        if hca.ports and not any(map(is_active, hca.ports))
    ]
    if not fabric:
        return failed(f"no active port: {', '.join(down)}", "cable, switch port and subnet manager: ibstat, ip link, mlxlink -d DEVICE")
    rates = {hca.id: port.rate_gbit for hca, port in fabric}
    layers = sorted({port.link_layer or "unknown" for _, port in fabric})
    speeds = sorted("?" if rate is None else f"{rate:g}" for rate in set(rates.values()))
    evidence = f"{len(fabric)} active {'/'.join(layers)} ports at {'/'.join(speeds)} Gb/s"
    best = max((rate or 0.0 for rate in rates.values()), default=0.0)
    slow = [name for name, rate in rates.items() if rate is not None and rate < best]
    if slow:
        remedy = "leave the slower ones out (plan does), or bring the link up at full rate: mlxlink -d DEVICE"
        return warned(f"{evidence}; slower: {', '.join(slow)}", remedy)
    if down:
        return warned(f"{evidence}; down: {', '.join(down)}", "bring the link up, or accept fewer rails")
    return passed(evidence)


def atomics(host: Host) -> Answer:
    """RDMA atomics, which IBGDA's queue pairs need; NVSHMEM itself asks the firmware by DEVX."""
    fabric = [hca for hca, _ in host.rails()]
    absent = [hca.id for hca in fabric if hca.atomics is False]
    unknown = [hca.id for hca in fabric if hca.atomics is None]
    remedy = "leave it out with NVSHMEM_HCA_LIST; on a physical function: mlxconfig -d DEVICE set PCI_ATOMIC_MODE=4, then power-cycle"
    if absent:
        severity = failed if len(absent) == len(fabric) else warned
        return severity(f"no PCIe atomics: {', '.join(absent)}", remedy)
    if unknown:
        remedy = "doctor --probe asks libibverbs (ibv_devinfo -v, atomic_cap)"
        return not_run(f"{', '.join(unknown)}: PCIe capabilities are readable by root alone", remedy)
    return passed(f"PCIe atomics on all {len(fabric)} fabric HCAs")


def counters(host: Host) -> Answer:
    """Error counters that are not 0 before the run: a cable or switch that already hurts."""
    fabric = host.rails()
    names = [f"counters/{name}" for name in ERROR_COUNTERS] + [f"hw_counters/{name}" for name in RETRY_COUNTERS]
    values = {
        f"{hca.id} {name.partition('/')[2]}": host.files.number(f"sys/class/infiniband/{hca.id}/ports/{port.number}/{name}")
        for hca, port in fabric
        for name in names
    }
    seen = sum(value is not None for value in values.values())
    if not seen:
        return not_run("no readable port counter")
    bad = [f"{name} {value}" for name, value in values.items() if value]
    if bad:
        remedy = (
            "see whether they grow during a run (bench reports the difference); then cable, transceiver, switch port; RoCE: PFC and ECN"
        )
        return warned("; ".join(bad[:8]) + (f"; and {len(bad) - 8} more" if len(bad) > 8 else ""), remedy)
    return passed(f"{seen} error counters on {len(fabric)} HCAs are 0")


def port_width(host: Host) -> Answer:
    """The port runs with all four lanes of its connector."""
    rates = {hca.id: host.files.maybe(f"sys/class/infiniband/{hca.id}/ports/{port.number}/rate") for hca, port in host.fabric()}
    widths = {name: match[1] for name, text in rates.items() if (match := re.search(r"\((\d+)X\b", text or ""))}
    if not widths:
        return not_run("no readable port rate")
    narrow = [f"{name} {width}X" for name, width in widths.items() if int(width) < 4]
    if narrow:
        remedy = "a lane is down or the split cable is meant so: mlxlink -d DEVICE, reseat or replace the cable"
        return warned(f"narrow link: {', '.join(narrow)}", remedy)
    return passed(f"4X or wider on {len(widths)} ports")


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


def links(host: Host) -> Answer:
    """Each HCA's and GPU's PCIe link has its full width, and an HCA's link carries its port's rate."""
    problems: list[str] = []
    seen = 0
    rates = {hca.pci: port.rate_gbit for hca, port in host.fabric()}
    devices = [(hca.id, hca.pci) for hca, _ in host.fabric()] + [(f"GPU{gpu.index}", gpu.pci) for gpu in host.topology.gpus]
    for name, pci in devices:
        base = f"sys/bus/pci/devices/{(pci or '').lower()}"
        width, most = (host.files.number(f"{base}/{key}_link_width") for key in ("current", "max"))
        if not width or not most or most > 32:  # virtual functions read 0 or 255
            continue
        seen += 1
        if width < most:
            problems.append(f"{name} x{width} of x{most}")
            continue
        speed = re.match(r"[\d.]+", host.files.maybe(f"{base}/current_link_speed") or "")
        lane = LANE_GBIT.get(speed[0]) if speed else None
        rate = rates.get(pci)
        if speed and lane and rate and lane * width < 0.9 * rate:
            problems.append(f"{name} at {speed[0]} GT/s x{width} carries {lane * width:.0f} of {rate:g} Gb/s")
    if not seen:
        return not_run("no readable PCIe link (hidden in most virtual machines)")
    if problems:
        return warned("; ".join(problems), "reseat the card, check BIOS slot bifurcation and speed: lspci -vv, LnkSta against LnkCap")
    return passed(f"{seen} PCIe links at full width")


def acs(host: Host) -> Answer:
    """ACS redirection off on every switch port above a GPU or HCA; readable as root alone."""
    paths = [gpu.pci_path for gpu in host.topology.gpus] + [hca.pci_path for hca in host.topology.hcas]
    bridges = sorted({bridge for path in paths for bridge in path if ":" in bridge and "." in bridge})
    if not bridges:
        return not_run("no PCIe bridge is visible above a GPU or HCA")
    controls: dict[str, int] = {}
    for bridge in bridges:
        with suppress(NotReadable):
            control = acs_control(host.files.data(f"sys/bus/pci/devices/{bridge.lower()}/config", 4096))
            if control is not None:
                controls[bridge] = control
    on = [bridge for bridge, control in controls.items() if control & ACS_REDIRECT]
    if on:
        remedy = "disable ACS in BIOS, or as root: setpci -s BRIDGE ECAP_ACS+6.w=0000 at every boot (not under VM pass-through)"
        return warned(f"ACS redirects peer-to-peer traffic at {', '.join(on)}", remedy)
    if not controls:
        return not_run("extended PCI configuration is readable by root alone", "as root on the host: lspci -vvv | grep ACSCtl")
    return passed(f"no ACS redirection on {len(controls)} bridges")


def acs_control(config: bytes) -> int | None:
    """The ACS control register, 0 when the bridge has no ACS, None when the extended space is not readable (64 or 256 bytes)."""
    if len(config) < 4096:
        return None
    offset, steps = 0x100, 0
    while 0x100 <= offset <= len(config) - 8 and steps < 96:
        header = struct.unpack_from("<I", config, offset)[0]
        if header & 0xFFFF == 0x000D:
            return int(struct.unpack_from("<H", config, offset + 6)[0])
        offset, steps = header >> 20, steps + 1
    return 0


def iommu(host: Host) -> Answer:
    """No IOMMU translation between GPU and HCA: groups of type identity, or no IOMMU at all."""
    groups = host.files.names("sys/kernel/iommu_groups")
    if not groups:
        return passed("no IOMMU group: device DMA is not translated")
    named = [(hca.pci, hca.id) for hca in host.topology.hcas] + [(gpu.pci, f"GPU{gpu.index}") for gpu in host.topology.gpus]
    devices = {pci.lower(): name for pci, name in named if pci}
    translated: list[str] = []
    seen = 0
    for group in groups:
        members = [devices[name] for name in host.files.maybe_names(f"sys/kernel/iommu_groups/{group}/devices") if name in devices]
        kind = host.files.maybe(f"sys/kernel/iommu_groups/{group}/type") if members else None
        if kind:
            seen += 1
            if kind.startswith("DMA"):
                translated += members
    if translated:
        remedy = "boot with iommu=pt (and intel_iommu=on or amd_iommu=on): peer-to-peer traffic otherwise goes through the root complex"
        return warned(f"the IOMMU translates DMA of {', '.join(translated)}", remedy)
    if not seen:
        return not_run("no readable IOMMU group type of a GPU or HCA")
    return passed(f"{seen} IOMMU groups of GPUs and HCAs are not translated")


def roce_gid(host: Host) -> Answer:
    """On RoCE every NIC needs a RoCE v2 GID that crosses subnets, as plan picks it; a fixed index must mean one on each of them."""
    fabric = host.rails()
    roce = [(hca, port) for hca, port in fabric if port.link_layer == "Ethernet"]
    if not roce:
        return passed("InfiniBand: GID index 0 serves")
    wanted = host.environ.get("NVSHMEM_IB_GID_INDEX", "")
    routable: dict[str, list[int]] = {}
    for hca, port in roce:
        if port.gids and all(gid.type is None for gid in port.gids):
            return not_run(f"{hca.id}: GID types are unreadable")
        routable[hca.id] = [gid.index for gid in port.gids if is_routable_gid(gid.gid, gid.type)]
    evidence = ", ".join(f"{name}: {' '.join(map(str, indices)) or 'none'}" for name, indices in routable.items())
    bare = [name for name, indices in routable.items() if not indices]
    if bare:
        remedy = f"give the netdev of {', '.join(bare)} an IPv4 address (in a pod: attach that network)"
        return failed(f"routable RoCE v2 GIDs {evidence}", remedy)
    if wanted and not (wanted.isascii() and wanted.lstrip("-").isdecimal()):
        return failed(f"NVSHMEM_IB_GID_INDEX={wanted!r} is not a number", "unset it, or give an index")
    if wanted and int(wanted) >= 0:
        off = [name for name, indices in routable.items() if int(wanted) not in indices]
        if off:
            remedy = "unset it (NVSHMEM then picks by NVSHMEM_IB_ADDR_FAMILY), or set the index per node"
            return failed(f"NVSHMEM_IB_GID_INDEX={wanted} is no routable RoCE v2 GID on {', '.join(off)} ({evidence})", remedy)
    return passed(f"routable RoCE v2 GID at {evidence}")


def rail_mtu(host: Host) -> Answer:
    """RoCE: one MTU over all rails, and at least 4200 so that the verbs MTU becomes 4096."""
    fabric = host.rails()
    if all(port.link_layer == "InfiniBand" for _, port in fabric):
        return not_run("InfiniBand's active MTU is not in sysfs", "doctor --probe reads it through libibverbs")
    mtus: dict[str, int] = {}
    for hca, port in fabric:
        netdev = port.netdev or next(iter(host.files.maybe_names(f"sys/class/infiniband/{hca.id}/device/net")), None)
        mtu = None if netdev is None else host.files.number(f"sys/class/net/{netdev}/mtu")
        if mtu is None:
            return not_run(f"{hca.id}: no netdev or MTU to read")
        mtus[f"{hca.id} ({netdev})"] = mtu
    evidence = ", ".join(f"{name} {mtu}" for name, mtu in mtus.items())
    if len(set(mtus.values())) > 1:
        return warned(f"MTU differs: {evidence}", f"ip link set NETDEV mtu {max(mtus.values())} on all rails, and on the switch ports")
    mtu = next(iter(mtus.values()))
    if mtu < 4200:
        remedy = "ip link set NETDEV mtu 9000 where the switches allow it"
        return warned(f"MTU {mtu} on all {len(mtus)} rails: RDMA runs with {1024 if mtu < 2200 else 2048} byte packets", remedy)
    return passed(f"MTU {mtu} on all {len(mtus)} rails")
