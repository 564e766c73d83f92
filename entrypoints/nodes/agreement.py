"""What all nodes must have in common before a rank starts."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from entrypoints.errors import PreflightFailed

#: Fact, what it is, and what to do when nodes differ in it.
SHARED = (
    ("lock", "lock digest of the image", "run one image, by digest, on all nodes"),
    ("ranks", "number of ranks", "plan the same --ranks on all nodes"),
    ("rails", "rail order (HCA of each local rank)", "HT mode connects equal local ranks: name the same HCAs in one order on all nodes"),
    ("workload", "workload", "start the same workload on all nodes"),
)

#: Nodes that a message names, of those that differ.
MOST_NAMED = 16


def check_agreement(facts: Sequence[dict[str, Any]]) -> None:
    """Compare the facts of all nodes, in node rank order; keys: hostname, lock, ranks, rails, workload (all optional).

    Raises PreflightFailed that names the nodes which differ. Host names must be unique because NVSHMEM takes the host
    name for the node (its init counts PEs with equal gethostname as one node).
    """
    problems = []
    for key, what, remedy in SHARED:
        values = [(rank, fact[key]) for rank, fact in enumerate(facts) if key in fact]
        minority = _minority(values)
        if minority:
            told = "; ".join(f"node {rank} ({_host(facts[rank])}) has {_brief(value)}" for rank, value in minority[1][:MOST_NAMED])
            more = f" (and {len(minority[1]) - MOST_NAMED} more nodes)" if len(minority[1]) > MOST_NAMED else ""
            problems.append(f"{what} differs: {told}{more}, the others {_brief(minority[0])}; {remedy}")
    hosts: dict[str, list[int]] = {}
    for rank, fact in enumerate(facts):
        if fact.get("hostname"):
            hosts.setdefault(str(fact["hostname"]), []).append(rank)
    for host, ranks in hosts.items():
        if len(ranks) > 1:
            nodes = ", ".join(map(str, ranks))
            problems.append(
                f"nodes {nodes} all call themselves {host}; NVSHMEM takes the host name for the node: give each its own (--hostname)"
            )
    if problems:
        raise PreflightFailed(" | ".join(problems), where=f"{len(facts)} nodes")


def _minority(values: Sequence[tuple[int, Any]]) -> tuple[Any, list[tuple[int, Any]]] | None:
    """(the commonest value, those who have another); the earliest node wins a tie. None when all agree."""
    if not values:
        return None
    counts = Counter(json.dumps(value, sort_keys=True) for _, value in values)
    # most_common keeps the order of arrival among equals.
    text = counts.most_common(1)[0][0]
    common = next(value for _, value in values if json.dumps(value, sort_keys=True) == text)
    others = [(rank, value) for rank, value in values if value != common]
    return (common, others) if others else None


def _host(fact: dict[str, Any]) -> str:
    return str(fact.get("hostname") or "?")


def _brief(value: Any) -> str:
    text = ",".join("none" if each is None else str(each) for each in value) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
