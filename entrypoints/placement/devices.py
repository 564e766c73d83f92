"""What one HCA is: its active ports, link layer, rate, and whether NVSHMEM's IBGDA can drive it."""

import re

from entrypoints.topology.model import Hca, Port

#: PCI vendors and kernel drivers of RDMA devices that IBGDA cannot drive, by what people call them.
FOREIGN_DRIVERS = {
    "efa": "AWS EFA",
    "bnxt_re": "Broadcom bnxt_re",
    "bnxt_en": "Broadcom bnxt_re",
    "irdma": "Intel irdma",
    "ice": "Intel irdma",
    "i40iw": "Intel irdma",
    "ionic": "AMD Pensando ionic",
    "ionic_rdma": "AMD Pensando ionic",
    "erdma": "Alibaba eRDMA",
    "mana": "Microsoft MANA",
    "mana_ib": "Microsoft MANA",
    "hns3": "HiSilicon hns",
    "hns_roce_hw_v2": "HiSilicon hns",
    "qedr": "Marvell qedr",
    "qede": "Marvell qedr",
    "cxgb4": "Chelsio iw_cxgb4",
    "ocrdma": "Emulex ocrdma",
    "hfi1": "Omni-Path hfi1",
    "qib": "QLogic qib",
    "ib_qib": "QLogic qib",
    "mlx4_core": "ConnectX-3 (mlx4)",
    "mlx4_ib": "ConnectX-3 (mlx4)",
    "vmw_pvrdma": "VMware pvrdma",
    "cxi_core": "HPE Slingshot (cxi)",
    "cxi_ss1": "HPE Slingshot (cxi)",
    "usnic_verbs": "Cisco usNIC",
    "enic": "Cisco usNIC",
}
FOREIGN_VENDORS = {
    0x1D0F: "AWS EFA",
    0x14E4: "Broadcom bnxt_re",
    0x8086: "Intel irdma",
    0x1DD8: "AMD Pensando ionic",
    0x1DED: "Alibaba eRDMA",
    0x1414: "Microsoft MANA",
    0x19E5: "HiSilicon hns",
    0x17DB: "HPE Slingshot (cxi)",
    0x1137: "Cisco usNIC",
}
FOREIGN_NAMES = {
    "efa_": "AWS EFA",
    "rdmap": "AWS EFA",
    "bnxt_re": "Broadcom bnxt_re",
    "irdma": "Intel irdma",
    "ionic": "AMD Pensando ionic",
    "erdma": "Alibaba eRDMA",
    "mana_": "Microsoft MANA",
    "hns_": "HiSilicon hns",
    "hfi1_": "Omni-Path hfi1",
    "qib": "QLogic qib",
    "mlx4_": "ConnectX-3 (mlx4)",
    "cxi": "HPE Slingshot (cxi)",
    "usnic_": "Cisco usNIC",
}
SOFTWARE = ("rxe", "siw", "rdma_rxe")


def is_active(port: Port) -> bool | None:
    """True or False by the port's state ("ACTIVE", "4: ACTIVE", "PORT_DOWN"), None when it is not known."""
    if not port.state:
        return None
    return port.state.upper().rpartition(" ")[2].removeprefix("PORT_") == "ACTIVE"


def active_ports(hca: Hca) -> list[Port]:
    """Ports that are not known to be down; the best first: active, then by rate, then by number."""
    up = [port for port in hca.ports if is_active(port) is not False]
    return sorted(up, key=lambda port: (is_active(port) is None, -(port.rate_gbps or 0), port.number))


def link_layer(hca: Hca) -> str | None:
    """ "InfiniBand" or "Ethernet" by the ports, else by PCI class, else by the name, else None."""
    layers = [port.link_layer for port in active_ports(hca) if port.link_layer]
    if layers:
        return "InfiniBand" if any(layer.lower().startswith("infini") for layer in layers) else "Ethernet"
    if hca.pci_class is not None and hca.pci_class >> 8 in (0x0207, 0x0200):
        return "InfiniBand" if hca.pci_class >> 8 == 0x0207 else "Ethernet"
    if hca.name and re.search(r"^ibp|_ib\d", hca.name):
        return "InfiniBand"
    if hca.name and re.search(r"^roce|_eth\d|_an\d", hca.name):
        return "Ethernet"
    return None


def rate(hca: Hca) -> float | None:
    """Rate of the best port in Gbit/s."""
    rates = [port.rate_gbps for port in active_ports(hca) if port.rate_gbps]
    return max(rates) if rates else None


def foreign_driver(hca: Hca) -> str | None:
    """What an HCA is called that NVSHMEM's IBGDA cannot drive, None for mlx5 and for the unknown."""
    if hca.driver:
        return None if hca.driver.startswith("mlx5") else FOREIGN_DRIVERS.get(hca.driver, hca.driver)
    try:
        vendor = int(hca.vendor, 16) if hca.vendor else None
    except ValueError:
        vendor = None
    if vendor in FOREIGN_VENDORS:
        return FOREIGN_VENDORS[vendor]
    return next((text for prefix, text in FOREIGN_NAMES.items() if (hca.name or "").startswith(prefix)), None)


def is_software(hca: Hca) -> bool:
    """True for RDMA in software (rxe, siw): it moves nothing by DMA from a GPU."""
    return (hca.driver or hca.name or "").startswith(SOFTWARE)
