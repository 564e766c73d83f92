"""The end points of an NCCL XML, and what its <net> elements say of HCAs."""

import re
from dataclasses import dataclass

from entrypoints.topology.model import Hca, Port
from entrypoints.topology.values import integer
from entrypoints.topology.xml_tree import Element

#: Network interfaces by the kernel's, systemd's and virtualisation's names.
_INTERFACE = re.compile(r"(?:eth|en[opsx]|ib|bond|team|br|vlan|wlan)\d|en[opsx]|veth|virbr|docker|br-|lo$", re.IGNORECASE)


@dataclass(frozen=True)
class Device:
    """One <pci> that is an end point, with what is above it."""

    element: Element
    pci: str
    path: tuple[str, ...]
    numa_node: int | None
    cpus: tuple[int, ...]

    def get(self, name: str) -> str | None:
        value = self.element.get(name)
        return value.lower() if value else None

    @property
    def pci_class(self) -> int | None:
        value = self.get("class")
        return integer(value if value is None or value.startswith("0x") else f"0x{value}")


def nets_of(element: Element) -> list[Element]:
    """The <net> elements of a device; files written by hand have them without <nic>, or a <nic> with the attributes of a <net>."""
    nics = element.all("nic")
    nets = [net for nic in nics for net in nic.all("net")] + element.all("net")
    return nets or [nic for nic in nics if nic.get("name")]


def is_socket(net: Element) -> bool:
    """True for NCCL's socket transport: its port is 0 and its GUID nothing or a small number. Without both, the name tells."""
    guid = integer(f"0x{(net.get('guid') or '0').lower().removeprefix('0x')}") or 0
    port = integer(net.get("port"))
    if guid >> 16 or port:
        return False
    return port == 0 or net.get("guid") is not None or bool(_INTERFACE.match(net.get("name") or "lo"))


def hcas_of(device: Device) -> list[Hca]:
    """One HCA a net name (the ports of one name together); the bus id alone for a device without nets."""
    by_name: dict[str | None, list[Element]] = {}
    for net in nets_of(device.element):
        # IPoIB interfaces of an InfiniBand function do not name its verbs device.
        if not is_socket(net):
            by_name.setdefault(net.get("name"), []).append(net)
    whole = {name for name in by_name if name and "+" not in name}
    # A merged device ("mlx5_0+mlx5_1") stands beside its parts and is none of its own.
    by_name = {name: nets for name, nets in by_name.items() if not name or "+" not in name or not whole}
    return [hca_of_nets(device, nets, device.numa_node, device.cpus) for nets in by_name.values() or [[]]]


def hca_of_nets(device: Device | None, nets: list[Element], node: int | None, cpus: tuple[int, ...]) -> Hca:
    name = nets[0].get("name") if nets else None
    pci_class = device.pci_class if device else None
    ports: dict[int, Port] = {}
    for net in nets:
        number = integer(net.get("port")) or 1
        speed = integer(net.get("speed"))
        # NCCL lists no port that is not active (src/transport/net_ib).
        layer = "InfiniBand" if pci_class is not None and pci_class >> 8 == 0x0207 else None
        ports.setdefault(number, Port(number, "ACTIVE", layer, speed / 1000 if speed else None))
    guid = next((net.get("guid") for net in nets if (net.get("guid") or "0").lower().removeprefix("0x").strip("0")), None)
    pci = device.pci if device else None
    return Hca(
        label=name or pci or "net",
        name=name,
        pci=pci,
        numa_node=node,
        pci_path=device.path if device else (),
        local_cpus=cpus,
        ports=tuple(port for _, port in sorted(ports.items())),
        vendor=device.get("vendor") if device else None,
        card=guid.lower() if guid else pci.rpartition(".")[0] if pci else None,
        pci_class=pci_class,
        link_speed=device.element.get("link_speed") if device else None,
        link_width=integer(device.element.get("link_width"), 1) if device else None,
    )
