"""PCIe below the GPUs and HCAs: negotiated links, ACS redirection, and the IOMMU's hand in DMA."""

import re
import struct

from entrypoints.preflight.files import NotReadable
from entrypoints.preflight.model import Answer, Host, not_run, passed, warned

#: ACS control bits that send peer-to-peer traffic up to the root (PCIe 5.0, 7.7.11.3): request and completion redirect, egress control.
ACS_REDIRECT = 0x2C
#: Usable Gbit/s of one lane after encoding, by raw GT/s.
LANE_GBPS = {"2.5": 2.0, "5.0": 4.0, "8.0": 7.9, "16.0": 15.8, "32.0": 31.5, "64.0": 60.5}


def links(host: Host) -> Answer:
    """Each HCA's and GPU's PCIe link has its full width, and an HCA's link carries its port's rate."""
    problems: list[str] = []
    seen = 0
    rates = {hca.pci: port.rate_gbps for hca, port in host.fabric()}
    devices = [(hca.id, hca.pci, True) for hca, _ in host.fabric()] + [(f"GPU{gpu.index}", gpu.pci, False) for gpu in host.topology.gpus]
    for name, pci, is_hca in devices:
        base = f"sys/bus/pci/devices/{(pci or '').lower()}"
        width, most = (host.files.number(f"{base}/{key}_link_width") for key in ("current", "max")) if pci else (None, None)
        if not width or not most or most > 32:  # virtual functions read 0 or 255
            continue
        seen += 1
        if width < most:
            problems.append(f"{name} x{width} of x{most}")
            continue
        speed = re.match(r"[\d.]+", host.files.maybe(f"{base}/current_link_speed") or "")
        lane = LANE_GBPS.get(speed[0]) if speed else None
        rate = rates.get(pci)
        if is_hca and lane and rate and lane * width < 0.9 * rate:
            problems.append(f"{name} at {speed[0] if speed else '?'} GT/s x{width} carries {lane * width:.0f} of {rate:g} Gb/s")
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
    on: list[str] = []
    seen = 0
    for bridge in bridges:
        try:
            control = acs_control(host.files.data(f"sys/bus/pci/devices/{bridge.lower()}/config", 4096))
        except NotReadable:
            continue
        if control is None:
            continue
        seen += 1
        if control & ACS_REDIRECT:
            on.append(bridge)
    if on:
        return warned(
            f"ACS redirects peer-to-peer traffic at {', '.join(on)}",
            "disable ACS in BIOS, or as root: setpci -s BRIDGE ECAP_ACS+6.w=0000 at every boot (not under VM pass-through)",
        )
    if not seen:
        return not_run("extended PCI configuration is readable by root alone", "as root on the host: lspci -vvv | grep ACSCtl")
    return passed(f"no ACS redirection on {seen} bridges")


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
        return warned(
            f"the IOMMU translates DMA of {', '.join(translated)}",
            "boot with iommu=pt (and intel_iommu=on or amd_iommu=on): peer-to-peer traffic otherwise goes through the root complex",
        )
    if not seen:
        return not_run("no readable IOMMU group type of a GPU or HCA")
    return passed(f"{seen} IOMMU groups of GPUs and HCAs are not translated")
