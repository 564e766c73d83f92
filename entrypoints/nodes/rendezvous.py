"""A node's number and the address of node 0 (flags, environment, schedulers), and what nodes must agree on before a rank starts."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.facts.ports import MASTER_PORT
from entrypoints.nodes.sources import PLATFORMS, Claim, number, plain

#: Nodes that a message names, of those that differ.
MOST_NAMED = 16


@dataclass(frozen=True)
class Rendezvous:
    """One node of a run, and how it finds node 0.

    `source` says where that was learnt; `run_id` tells one run's connections from those of another on the same port.
    """

    node_rank: int = 0
    nodes: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = MASTER_PORT
    source: str = "single node"
    run_id: str = ""

    @property
    def exchange_port(self) -> int:
        return self.master_port + 1

    def environment(self) -> dict[str, str]:
        """The variables that DeepEP's tests read: WORLD_SIZE and RANK count nodes."""
        return {
            "RANK": str(self.node_rank),
            "WORLD_SIZE": str(self.nodes),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `resolve` reads."""
    group = parser.add_argument_group("nodes", "needed only where no scheduler tells")
    group.add_argument("--nodes", type=int, metavar="N", help="number of nodes")
    group.add_argument("--node-rank", type=int, metavar="R", help="this node, from 0")
    group.add_argument("--master-addr", metavar="HOST", help="address of node 0 that all nodes reach")
    group.add_argument("--master-port", type=int, metavar="PORT", help=f"its port; EPBox also uses the next one (default {MASTER_PORT})")


def resolve(flags: argparse.Namespace | None, environ: Mapping[str, str]) -> Rendezvous:
    """The rendezvous of this node by its flags (see add_options; None where a verb has none) and its environment.

    Raises UsageError when two sources differ, when a value is missing for more than one node, or out of range.
    """
    from_flags = _from_flags(flags)
    # Flags that say all make torchrun's variables irrelevant; anything less is compared with them.
    overruled = from_flags is not None and None not in (from_flags.node_rank, from_flags.nodes) and "LOCAL_RANK" in environ
    from_plain = None if overruled else plain(environ)
    platform = next((claim for read in PLATFORMS if (claim := read(environ)) is not None), None)
    claims = [claim for claim in (from_flags, from_plain, platform) if claim is not None]
    nodes, rank = _agreed(claims, "nodes"), _agreed(claims, "node_rank")
    if nodes is None and rank:
        raise UsageError(
            f"this is node {rank}, but nobody says of how many", where=_claimant(claims, "node_rank"), hint="set WORLD_SIZE or --nodes"
        )
    nodes = 1 if nodes is None else nodes
    if nodes < 1:
        raise UsageError(f"{nodes} nodes make no run", where=_claimant(claims, "nodes"))
    if rank is None and nodes > 1:
        raise UsageError(
            f"{nodes} nodes, but nobody says which one this is", where=_claimant(claims, "nodes"), hint="set RANK or --node-rank"
        )
    rank = rank or 0
    if not 0 <= rank < nodes:
        raise UsageError(
            f"node rank {rank} is not below the {nodes} nodes", where=f"{_claimant(claims, 'node_rank')}, {_claimant(claims, 'nodes')}"
        )
    source = " + ".join(dict.fromkeys(claim.source for claim in claims)) or "single node"
    port = from_flags.master_port if from_flags is not None else None
    if port is None:
        port = number(environ, "MASTER_PORT")
    if port is not None and not 0 < port < 65535:
        raise UsageError(
            f"port {port} is not between 1 and 65534", where="--master-port or MASTER_PORT", hint="the next port is used as well"
        )
    # A flag first, then MASTER_ADDR, then what a scheduler's names give.
    address = from_flags.master_addr if from_flags is not None else None
    address = address or environ.get("MASTER_ADDR", "").strip() or next((claim.master_addr for claim in claims if claim.master_addr), None)
    if address is None and nodes > 1:
        raise UsageError(f"{nodes} nodes, but no address of node 0", where=source, hint="set MASTER_ADDR or --master-addr")
    return Rendezvous(rank, nodes, address or "127.0.0.1", MASTER_PORT if port is None else port, source, run_id(environ))


def run_id(environ: Mapping[str, str]) -> str:
    """An id that all nodes of one run share and other runs do not, where a scheduler gives one; else empty."""
    if environ.get("EPBOX_RUN_ID"):
        return environ["EPBOX_RUN_ID"]
    job, step = environ.get("SLURM_JOB_ID"), environ.get("SLURM_STEP_ID", "")
    return f"slurm-{job}.{step}" if job else ""


def _from_flags(flags: argparse.Namespace | None) -> Claim | None:
    if flags is None or all(value is None for value in (flags.node_rank, flags.nodes, flags.master_addr, flags.master_port)):
        return None
    names = {"node_rank": "--node-rank", "nodes": "--nodes", "master_addr": "--master-addr", "master_port": "--master-port"}
    return Claim("flags", flags.node_rank, flags.nodes, flags.master_addr, flags.master_port, names)


def _agreed(claims: list[Claim], field: Literal["nodes", "node_rank"]) -> int | None:
    """The one value of a field, None where nothing gives it. Raises UsageError that names two sources which differ."""
    values: list[tuple[Claim, int]] = [(claim, getattr(claim, field)) for claim in claims if getattr(claim, field) is not None]
    for claim, value in values:
        first, agreed = values[0]
        if value != agreed:
            text = f"{first.name_of(field)} says {agreed}, {claim.name_of(field)} says {value}"
            raise UsageError(text, where={"nodes": "number of nodes", "node_rank": "node rank"}[field], hint="unset the wrong one")
    return values[0][1] if values else None


def _claimant(claims: list[Claim], field: Literal["nodes", "node_rank"]) -> str:
    """The flag or variable that gave a field its value."""
    return next((claim.name_of(field) for claim in claims if getattr(claim, field) is not None), "environment")


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """The facts that a node gives of itself before a run."""

    #: Unique: NVSHMEM takes the host name for the node (its init counts PEs with equal gethostname as one node).
    hostname: str = ""
    ranks: int = 0
    #: Its name, shape and options, as one text.
    workload: str = ""
    #: Digest of the image's lock, None outside of an image.
    lock: str | None = None
    #: HCA of each local rank; None where their order does not matter.
    rails: list[str | None] | None = None
    #: Ids of preflight checks that failed.
    failed_checks: list[str] = field(default_factory=list)
    #: The host by epbox.facts/1, None without a preflight.
    host: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "NodeFacts":
        """Facts as `asdict` wrote them, perhaps in another version of EPBox: its own keys are dropped, what it lacks is as by default."""
        return cls(**{fact.name: document[fact.name] for fact in fields(cls) if fact.name in document})


#: A fact that must be equal: its name for people, and what to do when nodes differ in it.
SHARED = {
    "lock": ("lock digest of the image", "run one image, by digest, on all nodes"),
    "ranks": ("number of ranks", "plan the same --ranks on all nodes"),
    "rails": ("rail order (HCA of each local rank)", "HT mode connects equal local ranks: name the same HCAs in one order on all nodes"),
    "workload": ("workload", "start the same workload on all nodes"),
}


def check_agreement(nodes: Sequence[NodeFacts]) -> None:
    """Compare the facts of all nodes, in node rank order. Raises PreflightFailed that names the nodes which differ."""
    problems = []
    for name, (label, remedy) in SHARED.items():
        values = [(rank, getattr(node, name)) for rank, node in enumerate(nodes) if name != "rails" or node.rails is not None]
        # Of two values that are equally common the earliest node's counts: most_common keeps the order of arrival among equals.
        counts = Counter(json.dumps(value) for _, value in values).most_common(1)
        common = json.loads(counts[0][0]) if counts else None
        others = [(rank, value) for rank, value in values if value != common]
        if others:
            named = "; ".join(f"node {rank} ({nodes[rank].hostname}) has {_brief(value)}" for rank, value in others[:MOST_NAMED])
            more = f" (and {len(others) - MOST_NAMED} more nodes)" if len(others) > MOST_NAMED else ""
            problems.append(f"{label} differs: {named}{more}, the others {_brief(common)}; {remedy}")
    ranks_by_host: dict[str, list[int]] = {}
    for rank, node in enumerate(nodes):
        if node.hostname:
            ranks_by_host.setdefault(node.hostname, []).append(rank)
    for host, ranks in ranks_by_host.items():
        if len(ranks) > 1:
            namesakes = f"nodes {', '.join(map(str, ranks))} all call themselves {host}"
            problems.append(f"{namesakes}; NVSHMEM takes the host name for the node: give each its own (--hostname)")
    if problems:
        raise PreflightFailed(" | ".join(problems), where=f"{len(nodes)} nodes")


def _brief(value: Any) -> str:
    text = ",".join("none" if item is None else str(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
