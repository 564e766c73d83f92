"""The variables that make NVSHMEM and NCCL use the planned HCA. The user's own values are kept, and checked."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address

from entrypoints.errors import UsageError
from entrypoints.facts.nics import DEFAULT_HCA_PREFIX, is_routable_gid
from entrypoints.placement.candidates import IBGDA_WORKLOADS
from entrypoints.placement.devices import link_layer
from entrypoints.topology.model import Gid, Hca, Port


def roce_gid(port: Port) -> Gid | None:
    """The GID slot that a rank uses on RoCE: the first with an IPv4 address, else the first routable one; None when none is known."""
    routable = [gid for gid in port.gids if is_routable_gid(gid.gid, gid.type)]
    return min(routable, key=lambda gid: (IPv6Address(gid.gid.strip()).ipv4_mapped is None, gid.index), default=None)


def rank_environment(
    hca: Hca | None, port: Port | None, number: int | None, rails: Sequence[str], environ: Mapping[str, str], workload: str, gpu: bool
) -> tuple[dict[str, str], list[str]]:
    """Variables for one rank and warnings. `rails` are "name:port" of all HCAs of the plan, for NCCL's allow list."""
    env: dict[str, str] = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpu else {}
    # Not set on purpose: OMP_NUM_THREADS (OpenMP counts the bound CPUs itself), NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME
    # (a plan of one host cannot know the network between hosts; the user's values pass through).
    warnings: list[str] = []
    if hca is None or hca.name is None or workload not in IBGDA_WORKLOADS:
        return env, warnings
    # One device only: then NVSHMEM's own distance and PE rules have nothing left to choose (DeepEP #336).
    env["NVSHMEM_HCA_LIST"] = f"{hca.name}:{number}"
    env["NVSHMEM_ENABLE_NIC_PE_MAPPING"] = environ.get("NVSHMEM_ENABLE_NIC_PE_MAPPING") or "1"
    prefix = environ.get("NVSHMEM_HCA_PREFIX")
    if prefix is None and DEFAULT_HCA_PREFIX not in hca.name:
        env["NVSHMEM_HCA_PREFIX"] = hca.name[: re.search(r"\d|$", hca.name).start()] or hca.name  # type: ignore[union-attr]
    elif prefix is not None and prefix not in hca.name:
        warnings.append(f"NVSHMEM_HCA_PREFIX={prefix} does not occur in {hca.name}: NVSHMEM will skip this HCA")
    env.update(_gid_index(hca, port, environ, warnings))
    if workload == "deepep-v2":
        if "NCCL_IB_HCA" not in environ:
            env["NCCL_IB_HCA"] = "=" + ",".join(rails)
        if "EP_NIC_NAME" not in environ:
            env["EP_NIC_NAME"] = hca.name
    return env, warnings


def _gid_index(hca: Hca, port: Port | None, environ: Mapping[str, str], warnings: list[str]) -> dict[str, str]:
    """NVSHMEM_IB_GID_INDEX for RoCE, where the GID table is known."""
    gids = {gid.index: gid for gid in port.gids} if port else {}
    by_user = environ.get("NVSHMEM_IB_GID_INDEX")
    if by_user is not None:
        try:
            index = int(by_user)
        except ValueError:
            raise UsageError("not a number", where=f"NVSHMEM_IB_GID_INDEX={by_user}", hint="-1 (automatic) or a GID table index") from None
        if gids and index >= 0 and index not in gids:
            filled = ", ".join(map(str, sorted(gids)))
            warnings.append(f"NVSHMEM_IB_GID_INDEX={by_user}: {hca.name} has no GID there (filled: {filled})")
        elif gids and index >= 0 and link_layer(hca) == "Ethernet" and "v2" not in (gids[index].type or "v2").lower():
            warnings.append(f"NVSHMEM_IB_GID_INDEX={by_user}: {hca.name} has {gids[index].type} there, not RoCE v2")
        return {}
    if not gids or port is None or link_layer(hca) != "Ethernet":
        return {}
    gid = roce_gid(port)
    if gid is not None:
        return {"NVSHMEM_IB_GID_INDEX": str(gid.index)}
    if all(is_routable_gid(other.gid, other.type) is False for other in gids.values()):
        interface = f"is {port.netdev}" if port.netdev else "is its interface"
        warnings.append(f"{hca.name}: no routable RoCE v2 GID ({interface} up, with an IPv4 address?)")
    return {}
