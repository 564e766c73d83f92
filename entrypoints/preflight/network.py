"""Host name, rendezvous address, socket interfaces, GIDs and MTU."""

import ipaddress

from entrypoints.preflight.model import Answer, Host, failed, not_run, passed, warned
from entrypoints.topology.model import Port

#: Names that many machines are born with; two of them in a job are one "node" to NVSHMEM.
BORN_NAMES = frozenset({"localhost", "localhost.localdomain", "(none)", "ubuntu", "debian", "linux"})
INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME")


def hostname(host: Host) -> Answer:
    """NVSHMEM takes equal gethostname() for one node; whether it is unique only the other nodes can tell."""
    name = host.files.text("proc/sys/kernel/hostname")
    if not name or not name.isprintable():
        return not_run(f"/proc/sys/kernel/hostname reads {name!r}")
    if name.lower() in BORN_NAMES:
        remedy = "give every node its own name: docker run --hostname NODE, --network=host, or hostNetwork: true"
        evidence = f"hostname {name} is not a node's own"
        return failed(evidence, remedy) if host.several_nodes else warned(evidence, remedy)
    return passed(f"{name} (bench compares it over all nodes)")


def master(host: Host) -> Answer:
    """MASTER_ADDR must resolve, must not be loopback when there are several nodes, and its port must be free where it is ours."""
    name, port_text = host.environ.get("MASTER_ADDR", ""), host.environ.get("MASTER_PORT", "8361")
    if not name:
        if host.several_nodes:
            return failed(f"MASTER_ADDR is unset for {host.nodes} nodes", "set MASTER_ADDR to node 0's address on every node")
        return passed("MASTER_ADDR is unset: one node, 127.0.0.1")
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65535):
        return failed(f"MASTER_PORT={port_text!r} is not a port", "set MASTER_PORT to a free port from 1024 to 65534")
    addresses = host.probes.addresses(name)
    if not addresses:
        return failed(
            f"MASTER_ADDR={name} does not resolve", "use an address, or a name that every node resolves (headless service, /etc/hosts)"
        )
    shown = f"{name} = {', '.join(addresses[:3])}"
    if host.several_nodes and all(_loopback(address) for address in addresses):
        return failed(f"{shown} is loopback for {host.nodes} nodes", "set MASTER_ADDR to an address that the other nodes reach")
    for address in addresses:
        if host.probes.port_in_use(address, int(port_text)):
            return failed(
                f"{shown}: port {port_text} is taken on this node",
                f"stop what listens there (ss -ltnp sport = :{port_text}) or change MASTER_PORT",
            )
    if all(":" in address for address in addresses):
        return warned(
            f"{shown} is IPv6 only",
            "DeepEP#237: IPv6-only clusters need NCCL_SOCKET_FAMILY=AF_INET6, and NVSHMEM's UID bootstrap a recent release",
        )
    return passed(f"{shown}, port {port_text}")


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def interfaces(host: Host) -> Answer:
    """Every *_SOCKET_IFNAME must name an interface that exists and is up; a wrong one crashes NVSHMEM's bootstrap by SIGSEGV."""
    present = host.files.names("sys/class/net")
    up = [name for name in present if (host.files.maybe(f"sys/class/net/{name}/operstate") or "") in ("up", "unknown")]
    asked = {name: host.environ[name] for name in INTERFACE_VARIABLES if host.environ.get(name)}
    for variable, value in asked.items():
        chosen = _match(value, present)
        if not chosen:
            return failed(
                f"{variable}={value} matches none of {', '.join(present)}",
                f"set {variable} to one of {', '.join(up) or 'the interfaces that are up'}",
            )
        if not any(name in up for name in chosen):
            return failed(f"{variable}={value} matches {', '.join(chosen)}, which is down", f"set {variable} to one of {', '.join(up)}")
    outside = [name for name in up if name != "lo"]
    if asked:
        return passed(", ".join(f"{key}={value}" for key, value in asked.items()))
    if host.several_nodes and not outside:
        return warned(f"no interface is up but lo, for {host.nodes} nodes", "--network=host, or a pod network that reaches the other nodes")
    return passed(f"up: {', '.join(up) or 'none'}; no *_SOCKET_IFNAME is set")


def _match(value: str, present: tuple[str, ...]) -> list[str]:
    """NCCL's grammar: comma-separated prefixes, `=` for exact names, `^` to exclude (NCCL env docs, NCCL_SOCKET_IFNAME)."""
    exclude, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    words = [word for word in value.lstrip("^=").split(",") if word]
    hit = [name for name in present if any(name == word if exact else name.startswith(word) for word in words)]
    return [name for name in present if name not in hit and name != "lo"] if exclude else hit


def roce_gid(host: Host) -> Answer:
    """On RoCE every NIC needs a RoCE v2 GID with an IPv4 address, and a fixed index must mean that on each of them."""
    fabric = host.fabric()
    if not fabric:
        return not_run("no active port")
    roce = [(hca, port) for hca, port in fabric if port.link_layer == "Ethernet"]
    if not roce:
        return passed("InfiniBand: GID index 0 serves")
    wanted = host.environ.get("NVSHMEM_IB_GID_INDEX", "")
    indices: dict[str, list[int]] = {}
    for hca, port in roce:
        if port.gids and all(gid.type is None for gid in port.gids):
            return not_run(f"{hca.id}: GID types are unreadable")
        indices[hca.id] = ipv4_gids(port)
    shown = ", ".join(f"{name}: {' '.join(map(str, found)) or 'none'}" for name, found in indices.items())
    bare = [name for name, found in indices.items() if not found]
    if bare:
        return failed(f"RoCE v2 IPv4 GIDs {shown}", f"give the netdev of {', '.join(bare)} an IPv4 address (in a pod: attach that network)")
    if wanted and not (wanted.isascii() and wanted.lstrip("-").isdecimal()):
        return failed(f"NVSHMEM_IB_GID_INDEX={wanted!r} is not a number", "unset it, or give an index")
    if wanted and int(wanted) >= 0:
        off = [name for name, found in indices.items() if int(wanted) not in found]
        if off:
            return failed(
                f"NVSHMEM_IB_GID_INDEX={wanted} is no RoCE v2 IPv4 GID on {', '.join(off)} ({shown})",
                "unset it (NVSHMEM then picks by NVSHMEM_IB_ADDR_FAMILY), or set the index per node",
            )
    return passed(f"RoCE v2 IPv4 GID at {shown}")


def ipv4_gids(port: Port) -> list[int]:
    """Indices of RoCE v2 GIDs that carry an IPv4 address (::ffff:a.b.c.d), which alone are routable by default."""
    return [gid.index for gid in port.gids if gid.type == "RoCE v2" and gid.gid.lower().startswith("0000:0000:0000:0000:0000:ffff:")]


def rail_mtu(host: Host) -> Answer:
    """RoCE: one MTU over all rails, and at least 4200 so that the verbs MTU becomes 4096."""
    fabric = host.fabric()
    if not fabric:
        return not_run("no active port")
    if all(port.link_layer == "InfiniBand" for _, port in fabric):
        return not_run("InfiniBand's active MTU is not in sysfs", "doctor --probe reads it through libibverbs")
    found: dict[str, int] = {}
    for hca, port in fabric:
        netdev = port.netdev or next(iter(host.files.maybe_names(f"sys/class/infiniband/{hca.id}/device/net")), None)
        mtu = None if netdev is None else host.files.number(f"sys/class/net/{netdev}/mtu")
        if mtu is None:
            return not_run(f"{hca.id}: no netdev or MTU to read")
        found[f"{hca.id} ({netdev})"] = mtu
    shown = ", ".join(f"{name} {mtu}" for name, mtu in found.items())
    if len(set(found.values())) > 1:
        return warned(f"MTU differs: {shown}", f"ip link set NETDEV mtu {max(found.values())} on all rails, and on the switch ports")
    mtu = next(iter(found.values()))
    if mtu < 4200:
        return warned(
            f"MTU {mtu} on all {len(found)} rails: RDMA runs with {1024 if mtu < 2200 else 2048} byte packets",
            "ip link set NETDEV mtu 9000 where the switches allow it",
        )
    return passed(f"MTU {mtu} on all {len(found)} rails")
