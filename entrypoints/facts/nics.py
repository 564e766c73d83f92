"""NICs: which one a device is, whether NVSHMEM's IBGDA can drive it, what is no rail; and which RoCE GIDs are routable."""

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from entrypoints.toml import load_toml

NICS = Path(__file__).with_name("nics.toml")
#: NVSHMEM_HCA_PREFIX where it is unset: NVSHMEM takes devices whose names contain it (env_defs.h of transport/common).
DEFAULT_HCA_PREFIX = "mlx5"


@dataclass(frozen=True, kw_only=True)
class Nic:
    """One kind of NIC. `names` are first letters of verbs names; `ibgda` None means unknown."""

    id: str
    title: str
    source: str
    drivers: tuple[str, ...]
    vendors: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    ibgda: bool | None = None
    software: bool = False


@cache
def nics() -> tuple[Nic, ...]:
    """All kinds of NIC in nics.toml, in its order."""
    tables: list[Any] = load_toml(NICS)["nic"]
    lists_as_tuples: Any = [{key: tuple(item) if isinstance(item, list) else item for key, item in table.items()} for table in tables]
    return tuple(Nic(**table) for table in lists_as_tuples)


def identify(driver: str | None, vendor: str | None, name: str | None) -> Nic | None:
    """The kind of a device by its kernel driver, else by its PCI vendor ("0x15b3") and verbs name; None when these do not tell.

    A driver that nics.toml does not list is unknown, whatever the device is called: udev and people rename devices.
    """
    if driver:
        module = driver.partition(".")[0]  # mlx5_core.sf drives a scalable function
        return next((nic for nic in nics() if module in nic.drivers), None)
    try:
        number = int(vendor, 16) if vendor else None
    except ValueError:
        number = None
    of_vendor = [nic for nic in nics() if number in nic.vendors]
    by_name = [nic for nic in of_vendor or nics() if name and name.startswith(nic.names)]
    return next(iter(by_name or of_vendor), None)


def foreign_to_ibgda(driver: str | None, vendor: str | None, name: str | None) -> str | None:
    """The common name of a device that NVSHMEM's IBGDA cannot drive ("AWS EFA"); None when it can, and when that is unknown.

    A kernel driver that nics.toml does not list is not mlx5's, and is called by its own name.
    """
    nic = identify(driver, vendor, name)
    if nic is not None:
        return nic.title if nic.ibgda is False else None
    return driver or None


def is_software(driver: str | None, vendor: str | None, name: str | None) -> bool:
    """True for RDMA in software (rxe, siw): it moves nothing by DMA from a GPU."""
    nic = identify(driver, vendor, name)
    return nic is not None and nic.software


def foreign_names() -> tuple[str, ...]:
    """First letters of the verbs names of all devices that IBGDA cannot drive; no NVSHMEM_HCA_PREFIX makes these fit."""
    return tuple(name for nic in nics() if nic.ibgda is False for name in nic.names)


@cache
def _side() -> tuple[re.Pattern[str], str]:
    side = load_toml(NICS)["side"]
    return re.compile("|".join(side["names"]), re.IGNORECASE), side["reason"]


def side_network(name: str | None) -> str | None:
    """The reason for which a verbs name is not that of a rail (a bond, Azure's mlx5_an0); None when it does not say so."""
    pattern, reason = _side()
    return reason if name and pattern.search(name) else None


def is_routable_gid(gid: str, gid_type: str | None) -> bool | None:
    """True for a RoCE v2 GID that crosses subnets: an IPv4 address, or an IPv6 address beyond the link (2001:db8::1, fd00::1).

    False for RoCE v1 and for link-local addresses (fe80::). None when the type or the address is unknown.
    NVSHMEM and NCCL pick IPv4 by themselves; an IPv6 GID has to be named (NVSHMEM_IB_GID_INDEX, or _ADDR_FAMILY=AF_INET6).
    """
    if not gid_type:
        return None
    if "v2" not in gid_type.lower():
        return False
    try:
        address = IPv6Address(gid.strip())
    except ValueError:
        return None
    return not (address.is_link_local or address.is_loopback or address.is_multicast or address.is_unspecified)
