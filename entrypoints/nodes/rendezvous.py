"""Which node this is and how the nodes find each other: flags, environment and schedulers, with contradictions refused."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.nodes.agreement import check_agreement
from entrypoints.nodes.session import Session, exchange
from entrypoints.nodes.sources import PLATFORMS, Found, number, plain

__all__ = ["Rendezvous", "Session", "add_options", "check_agreement", "exchange", "resolve"]

#: The port DeepEP's tests take when MASTER_PORT is unset; EPBox itself talks on the next one.
DEFAULT_PORT = 8361


@dataclass(frozen=True)
class Rendezvous:
    """`source` says where it was learnt; `run_id` tells one run's connections from those of another on the same port."""

    node_rank: int = 0
    nodes: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT
    source: str = "single node"
    run_id: str = ""

    @property
    def exchange_port(self) -> int:
        return self.master_port + 1

    def environment(self) -> dict[str, str]:
        """What DeepEP's tests read: WORLD_SIZE and RANK count nodes."""
        return {
            "RANK": str(self.node_rank),
            "WORLD_SIZE": str(self.nodes),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """The flags that `resolve` reads."""
    group = parser.add_argument_group("nodes", "needed only where no scheduler tells")
    group.add_argument("--nodes", type=int, metavar="N", help="number of nodes")
    group.add_argument("--node-rank", type=int, metavar="R", help="this node, from 0")
    group.add_argument("--master-addr", metavar="HOST", help="address of node 0 that all nodes reach")
    group.add_argument("--master-port", type=int, metavar="PORT", help=f"its port; EPBox also uses the next one (default {DEFAULT_PORT})")


def resolve(flags: Any = None, environ: Mapping[str, str] | None = None) -> Rendezvous:
    """The rendezvous of this node. `flags` is anything with nodes, node_rank, master_addr, master_port (a Namespace, a Mapping).

    Raises UsageError when two sources differ, when a value is missing for more than one node, or out of range.
    """
    environ = os.environ if environ is None else environ
    given = _from_flags(flags)
    told = [found for found in (given, _plain_unless_overruled(given, environ), _platform(environ)) if found is not None]
    nodes, rank = _agreed(told, "nodes"), _agreed(told, "node_rank")
    if nodes is None and rank:
        raise UsageError(
            f"this is node {rank}, but nobody says of how many", where=_who(told, "node_rank"), hint="set WORLD_SIZE or --nodes"
        )
    nodes = 1 if nodes is None else nodes
    if nodes < 1:
        raise UsageError(f"{nodes} nodes make no run", where=_who(told, "nodes"))
    if rank is None and nodes > 1:
        raise UsageError(f"{nodes} nodes, but nobody says which one this is", where=_who(told, "nodes"), hint="set RANK or --node-rank")
    rank = rank or 0
    if not 0 <= rank < nodes:
        raise UsageError(f"node rank {rank} is not below the {nodes} nodes", where=f"{_who(told, 'node_rank')}, {_who(told, 'nodes')}")
    source = " + ".join(dict.fromkeys(found.source for found in told)) or "single node"
    result = Rendezvous(rank, nodes, "127.0.0.1", _port(given, environ), source, run_id(environ))
    address = _address(given, environ, told)
    if address is None and nodes > 1:
        raise UsageError(f"{nodes} nodes, but no address of node 0", where=source, hint="set MASTER_ADDR or --master-addr")
    return replace(result, master_addr=address or "127.0.0.1")


def run_id(environ: Mapping[str, str]) -> str:
    """What all nodes of one run share and other runs do not, where a scheduler gives it."""
    if environ.get("EPBOX_RUN_ID"):
        return environ["EPBOX_RUN_ID"]
    parts = [environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    return "slurm-" + ".".join(parts) if parts[0] else ""


def _from_flags(flags: Any) -> Found | None:
    names = {"node_rank": "--node-rank", "nodes": "--nodes", "master_addr": "--master-addr", "master_port": "--master-port"}
    told: Mapping[str, Any] = flags if isinstance(flags, Mapping) else vars(flags) if flags is not None else {}
    values = {field: told.get(field) for field in names}
    if all(value is None for value in values.values()):
        return None
    return Found("flags", values["node_rank"], values["nodes"], values["master_addr"], values["master_port"], tuple(names.items()))


def _plain_unless_overruled(given: Found | None, environ: Mapping[str, str]) -> Found | None:
    """Flags that say all make torchrun's variables irrelevant; anything less is compared with them."""
    if given is not None and given.node_rank is not None and given.nodes is not None and "LOCAL_RANK" in environ:
        return None
    return plain(environ)


def _platform(environ: Mapping[str, str]) -> Found | None:
    return next((found for read in PLATFORMS if (found := read(environ)) is not None), None)


def _agreed(told: list[Found], field: str) -> int | None:
    """The one value of a field; two that differ are an error that names both."""
    values = [(found, getattr(found, field)) for found in told if getattr(found, field) is not None]
    for found, value in values[1:]:
        first, other = values[0]
        if value != other:
            raise UsageError(
                f"{first.name_of(field)} says {other}, {found.name_of(field)} says {value}",
                where={"nodes": "number of nodes", "node_rank": "node rank"}[field],
                hint="unset the wrong one",
            )
    return values[0][1] if values else None


def _who(told: list[Found], field: str) -> str:
    return next((found.name_of(field) for found in told if getattr(found, field) is not None), "environment")


def _address(given: Found | None, environ: Mapping[str, str], told: list[Found]) -> str | None:
    """A flag first, then MASTER_ADDR, then what a scheduler's names give."""
    if given is not None and given.master_addr:
        return given.master_addr
    if environ.get("MASTER_ADDR"):
        return environ["MASTER_ADDR"].strip()
    return next((found.master_addr for found in told if found.master_addr), None)


def _port(given: Found | None, environ: Mapping[str, str]) -> int:
    port = given.master_port if given is not None and given.master_port is not None else number(environ, "MASTER_PORT")
    port = DEFAULT_PORT if port is None else port
    if not 0 < port < 65535:
        raise UsageError(
            f"port {port} is not between 1 and 65534", where="--master-port or MASTER_PORT", hint="the next port is used as well"
        )
    return port
