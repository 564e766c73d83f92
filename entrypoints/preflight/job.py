"""What the job brings: the node's name, where ranks meet, and over which interface, its size, and the user's own NVSHMEM variables."""

import ipaddress

from entrypoints.errors import EPBoxError
from entrypoints.facts.ports import MASTER_PORT
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.preflight.model import V1, Answer, Host, failed, not_run, passed, warned
from entrypoints.workloads.deepep import HT_NODES_LATER, HT_NODES_V121, INTRANODE_RANKS

#: Names that many machines are born with; two of them in a job are one "node" to NVSHMEM.
BORN_NAMES = frozenset({"localhost", "localhost.localdomain", "(none)", "ubuntu", "debian", "linux"})
INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME")
#: Misspelt variables that circulate, and what was meant.
MISSPELT = {"NVSHMEM_DISABLED_GDRCOPY": "NVSHMEM_DISABLE_GDRCOPY", "NVSHMEM_HCA_LISTS": "NVSHMEM_HCA_LIST"}


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
    name, port_text = host.environ.get("MASTER_ADDR", ""), host.environ.get("MASTER_PORT", str(MASTER_PORT))
    if not name:
        if host.several_nodes:
            return failed(f"MASTER_ADDR is unset for {host.nodes} nodes", "set MASTER_ADDR to node 0's address on every node")
        return passed("MASTER_ADDR is unset: one node, 127.0.0.1")
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65535):
        return failed(f"MASTER_PORT={port_text!r} is not a port", "set MASTER_PORT to a free port from 1024 to 65534")
    addresses = host.probes.addresses(name)
    if not addresses:
        remedy = "use an address, or a name that every node resolves (headless service, /etc/hosts)"
        return failed(f"MASTER_ADDR={name} does not resolve", remedy)
    evidence = f"{name} = {', '.join(addresses[:3])}"
    if host.several_nodes and all(ipaddress.ip_address(address).is_loopback for address in addresses):
        return failed(f"{evidence} is loopback for {host.nodes} nodes", "set MASTER_ADDR to an address that the other nodes reach")
    for address in addresses:
        if host.probes.port_in_use(address, int(port_text)):
            remedy = f"stop what listens there (ss -ltnp sport = :{port_text}) or change MASTER_PORT"
            return failed(f"{evidence}: port {port_text} is taken on this node", remedy)
    if all(":" in address for address in addresses):
        remedy = "DeepEP#237: IPv6-only clusters need NCCL_SOCKET_FAMILY=AF_INET6, and NVSHMEM's UID bootstrap a recent release"
        return warned(f"{evidence} is IPv6 only", remedy)
    return passed(f"{evidence}, port {port_text}")


def interfaces(host: Host) -> Answer:
    """Every *_SOCKET_IFNAME must name an interface that exists and is up; a wrong one crashes NVSHMEM's bootstrap by SIGSEGV."""
    present = host.files.names("sys/class/net")
    up = [name for name in present if (host.files.maybe(f"sys/class/net/{name}/operstate") or "") in ("up", "unknown")]
    variables = {name: host.environ[name] for name in INTERFACE_VARIABLES if host.environ.get(name)}
    for variable, value in variables.items():
        chosen = _match(value, present)
        if not chosen:
            remedy = f"set {variable} to one of {', '.join(up) or 'the interfaces that are up'}"
            return failed(f"{variable}={value} matches none of {', '.join(present)}", remedy)
        if not any(name in up for name in chosen):
            return failed(f"{variable}={value} matches {', '.join(chosen)}, which is down", f"set {variable} to one of {', '.join(up)}")
    outside = [name for name in up if name != "lo"]
    if variables:
        return passed(", ".join(f"{key}={value}" for key, value in variables.items()))
    if host.several_nodes and not outside:
        return warned(f"no interface is up but lo, for {host.nodes} nodes", "--network=host, or a pod network that reaches the other nodes")
    return passed(f"up: {', '.join(up) or 'none'}; no *_SOCKET_IFNAME is set")


def _match(value: str, present: tuple[str, ...]) -> list[str]:
    """NCCL's grammar: comma-separated prefixes, `=` for exact names, `^` to exclude (NCCL env docs, NCCL_SOCKET_IFNAME)."""
    exclude, exact = value.startswith("^"), value.lstrip("^").startswith("=")
    words = [word for word in value.lstrip("^=").split(",") if word]
    hit = [name for name in present if any(name == word if exact else name.startswith(word) for word in words)]
    return [name for name in present if name not in hit and name != "lo"] if exclude else hit


def ranks(host: Host) -> Answer:
    """The number of nodes and of GPUs per node is one that DeepEP's kernels are compiled for."""
    text = host.environ.get("WORLD_SIZE", "")
    nodes = host.nodes
    if nodes is None and text:
        return failed(f"WORLD_SIZE={text!r} is not a number of nodes", "WORLD_SIZE is the number of nodes for DeepEP's tests, not of ranks")
    gpus = len(host.topology.gpus)
    if not gpus:
        return not_run("no GPU: no local rank to count")
    evidence = f"{nodes or 'unknown number of'} nodes x {gpus} GPUs"
    if host.workload != V1:
        if (nodes or 1) > 32:
            return failed(evidence, "DeepEP V2's hybrid kernels serve at most 32 scale-out ranks")
        return passed(evidence)
    if nodes is not None and nodes > 1:
        if gpus != 8:
            return failed(evidence, "DeepEP V1's internode test asserts 8 GPUs on every node")
        if nodes not in HT_NODES_LATER:
            near = [count for count in HT_NODES_V121 if count < nodes]
            remedy = f"run on {near[-1]} nodes; known: {', '.join(map(str, HT_NODES_V121))}"
            return failed(f"{evidence}: no kernel for {nodes} nodes", remedy)
        if nodes not in HT_NODES_V121:
            remedy = "build DeepEP at 567632d, and give --num-experts a multiple of all ranks"
            return warned(f"{evidence}: compiled in 567632d, not in v1.2.1", remedy)
        if 256 % (nodes * 8):
            return warned(f"{evidence}: 256 experts do not divide by {nodes * 8} ranks", f"--num-experts {nodes * 8 * 2}")
        return passed(evidence)
    if gpus not in INTRANODE_RANKS:
        return warned(evidence, "the intranode test knows 2, 4 or 8 ranks; low latency runs with 1")
    return passed(evidence)


def environment(host: Host) -> Answer:
    """The user's own NVSHMEM variables do what they look like."""
    preset = {key: value for key, value in host.environ.items() if key.startswith(("NVSHMEM_", "DEEP_EP_", "NCCL_IB_")) and value}
    names = {hca.id for hca in host.topology.hcas}
    for wrong, right in MISSPELT.items():
        if wrong in preset:
            return warned(f"{wrong} is not a variable of NVSHMEM", f"{right} was meant")
    listed = preset.get("NVSHMEM_HCA_LIST", "")
    entries = [entry.strip().partition(":")[0] for entry in listed.lstrip("^=").split(",") if entry.strip()]
    if listed.startswith("="):
        return failed(f"NVSHMEM_HCA_LIST={listed}: `=` is NCCL's grammar", f"NVSHMEM_HCA_LIST={listed.lstrip('=')}")
    unknown = [entry for entry in entries if entry not in names]
    if unknown and names:
        remedy = "NVSHMEM only warns of unknown names, and goes on without them: correct the list"
        return failed(f"NVSHMEM_HCA_LIST names {', '.join(unknown)}; here are {', '.join(sorted(names))}", remedy)
    mapped = host.is_set("NVSHMEM_ENABLE_NIC_PE_MAPPING")
    if host.workload == V1 and len(entries) > 1 and not listed.startswith("^") and mapped:
        remedy = "unset both: plan gives each rank a list of its own one NIC (or bind by exec)"
        evidence = f"NVSHMEM_HCA_LIST has {len(entries)} entries with NVSHMEM_ENABLE_NIC_PE_MAPPING=1: all ranks take the first (HT mode)"
        return failed(evidence, remedy)
    if host.is_set("NVSHMEM_DISABLE_CUDA_VMM") and "NVSHMEM_SYMMETRIC_SIZE" not in preset:
        remedy = "NVSHMEM_SYMMETRIC_SIZE=4g: DeepEP's buffer takes 1 to 2 GB"
        return warned("NVSHMEM_DISABLE_CUDA_VMM=1 with the default 1 GiB NVSHMEM_SYMMETRIC_SIZE", remedy)
    return passed(", ".join(f"{key}={value}" for key, value in sorted(preset.items())) or "no NVSHMEM_* or NCCL_IB_* is preset")


def mapping(host: Host) -> Answer:
    """The plan gives each GPU an HCA of its own where there are enough."""
    if not host.topology.gpus or not host.topology.hcas:
        return not_run(f"{len(host.topology.gpus)} GPUs and {len(host.topology.hcas)} HCAs: nothing to map")
    try:
        plan = make_plan(host.topology, PlanOptions(ranks=len(host.topology.gpus), environ=dict(host.environ), workload=host.workload))
    except EPBoxError as error:
        return failed(str(error), "epbox plan tells more")
    used: dict[str, list[int]] = {}
    for rank in plan.ranks:
        if rank.hca:
            used.setdefault(f"{rank.hca}:{rank.port}", []).append(rank.local_rank)
    evidence = ", ".join(f"{hca} <- {' '.join(map(str, locals_))}" for hca, locals_ in used.items())
    bare = [rank.local_rank for rank in plan.ranks if not rank.hca]
    if bare:
        return failed(f"no HCA for ranks {bare}; {evidence}", "epbox plan shows why each HCA was left out")
    shared = [hca for hca, locals_ in used.items() if len(locals_) > 1]
    if shared and len(host.fabric()) >= len(plan.ranks):
        remedy = "see the exclusions of epbox plan, and DEEP_EP_DEVICE_TO_HCA_MAPPING if it is set"
        return failed(f"shared though there are {len(host.fabric())} fabric HCAs: {evidence}", remedy)
    if shared:
        remedy = "expected with fewer HCAs than GPUs; the HCAs' joint rate is the bound"
        return warned(f"{len(host.fabric())} fabric HCAs for {len(plan.ranks)} ranks: {evidence}", remedy)
    return passed(evidence)
