"""Results against published references, against the wire, and against each other."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

from entrypoints.errors import UsageError
from entrypoints.results.metrics import Metric, grouped, label, metrics
from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("references.toml")
#: Differences with a larger probability under "nothing changed" are called noise.
ALPHA = 0.05


@cache
def references(path: Path = TABLE) -> tuple[dict[str, Any], ...]:
    """The published results. Raises UsageError naming a table that lacks something."""
    entries = load_toml(path).get("reference", [])
    for entry in entries:
        missing = {"id", "source", "hardware", "test", "nodes", "ranks", "values"} - set(entry)
        if missing:
            raise UsageError(f"reference {entry.get('id')} lacks {sorted(missing)}", where=str(path))
    return tuple(entries)


def with_nodes(run: Mapping[str, Any], nodes: int | None) -> dict[str, Any]:
    """The run with its number of nodes and ranks filled in where they follow from the test or were told."""
    shape = dict(run.get("shape") or {})
    told = shape.get("nodes") or nodes
    if told and not shape.get("nodes"):
        shape["nodes"] = told
    if run["test"] == "internode" and told and not shape.get("ranks"):
        shape["ranks"] = 8 * told  # the kernels need 8 ranks a node
    return {**run, "shape": shape}


def fits(reference: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Same test and same shape. What the log does not say is no reason to refuse, except nodes and ranks between nodes."""
    shape = run.get("shape") or {}
    if reference["test"] != run["test"]:
        return False
    for name in ("nodes", "ranks", "num_tokens", "hidden"):
        known = shape.get(name)
        if known is None and name == "nodes" and run["test"] == "low_latency":
            continue
        if known is None and name in ("nodes",):
            return False
        if known is not None and name in reference and reference[name] != known:
            return False
    return True


def against_references(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a figure and reference of the same test and shape; `ratio` is better above 1 for GB/s and for times alike."""
    own = metrics(run)
    rows = []
    for reference in references():
        if not fits(reference, run):
            continue
        for name, values in reference["values"].items():
            for direction, published in values.items():
                value = own.get((name, direction))
                if value is None:
                    continue
                ratio = published / value if direction == "us" else value / published
                rows.append(
                    {
                        "metric": label((name, direction)),
                        "value": value,
                        "reference": published,
                        "ratio": round(ratio, 3),
                        "id": reference["id"],
                        "hardware": reference["hardware"],
                        "version": reference.get("version"),
                        "bound": reference.get("bound"),
                        "source": reference["source"],
                    }
                )
    return rows


def against_wire(run: Mapping[str, Any], port_gbps: float, ports: int) -> list[dict[str, Any]]:
    """What left the node, against the line rate.

    DeepEP counts a token once for every node it goes to, its own included (tests/test_internode.py). With experts spread
    evenly, (N - 1) / N of that leaves the node, which is why a figure above the line rate is no error.
    """
    nodes = (run.get("shape") or {}).get("nodes")
    if run["test"] not in ("internode", "elastic_ep") or not nodes or nodes < 2:
        return []
    line_rate = port_gbps / 8 * ports
    rows = []
    for (name, direction), value in metrics(run).items():
        if direction == "rdma":
            wire = value * (nodes - 1) / nodes
            text = f"{nodes - 1} of {nodes} nodes are remote: {value:.2f} GB/s counted is {wire:.2f} GB/s on a wire of {line_rate:.0f}"
            rows.append(
                {
                    "metric": label((name, direction)),
                    "value": value,
                    "off_node_gbps": round(wire, 2),
                    "line_rate_gbps": line_rate,
                    "share": round(wire / line_rate, 3),
                    "explanation": text,
                }
            )
    return rows


def local_share(run: Mapping[str, Any]) -> str:
    """Why "GB/s (RDMA)" may be above a port's line rate, for a run between nodes; "" for others."""
    nodes = (run.get("shape") or {}).get("nodes")
    rdma = [value for (_, direction), value in metrics(run).items() if direction == "rdma"]
    if run["test"] != "internode" or not nodes or nodes < 2 or not rdma:
        return ""
    top = max(rdma)
    return (
        f"GB/s (RDMA) counts a token for its own node too, and may be above a port's line rate: {nodes - 1} of {nodes} leaves the node, "
        f"here up to {top * (nodes - 1) / nodes:.2f} of {top:.2f} GB/s (--port-gbps sets that beside the wire)"
    )


def compare(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the figures both have, for the same test and shape, with what can be said of the difference."""
    left, right = grouped(before), grouped(after)
    shared = [key for key in left if key in right]
    if not shared:
        tests = f"{_names(left)} against {_names(right)}"
        raise UsageError(f"nothing to compare: no two runs of the same test and shape ({tests})")
    rows = []
    for key in shared:
        olds, news = [metrics(run) for run in left[key]], [metrics(run) for run in right[key]]
        for metric in olds[0]:
            one = [item[metric] for item in olds if metric in item]
            two = [item[metric] for item in news if metric in item]
            if one and two:
                rows.append({"test": key[0], "shape": dict(key[1]), **_difference(metric, one, two)})
    return rows


def _names(groups: Mapping[tuple[str, tuple[tuple[str, Any], ...]], object]) -> str:
    return "; ".join(f"{test} {dict(shape)}" for test, shape in groups) or "no run"


def _difference(metric: Metric, one: Sequence[float], two: Sequence[float]) -> dict[str, Any]:
    a, b = median(one), median(two)
    change = (b - a) / a if a else 0.0
    probability = rank_sum_p(one, two)
    if probability is None:
        note = f"{len(one)} and {len(two)} runs: too few to tell a change from noise (4 each are the least)"
    elif probability > ALPHA:
        note = f"noise: p = {probability:.2f}"
    else:
        note = f"significant: p = {probability:.3f}"
    better = change < 0 if metric[1] == "us" else change > 0
    return {
        "metric": label(metric),
        "a": round(a, 4),
        "b": round(b, 4),
        "runs": [len(one), len(two)],
        "change": round(change, 4),
        "better": None if probability is None or probability > ALPHA else better,
        "p": None if probability is None else round(probability, 4),
        "note": note,
    }


def rank_sum_p(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Two-sided p of the exact rank-sum test, None when no outcome of so few runs could reach ALPHA or there are too many to count."""
    total = comb(len(one) + len(two), len(one))
    if 2 / total > ALPHA:
        return None
    pooled = sorted([*one, *two])
    ranks = {value: (pooled.index(value) + len(pooled) - pooled[::-1].index(value) + 1) / 2 for value in set(pooled)}
    expected = len(one) * (len(pooled) + 1) / 2
    seen = abs(sum(ranks[value] for value in one) - expected)
    if total > 50_000:
        return _normal_p(seen, len(one), len(two))
    all_ranks = [ranks[value] for value in pooled]
    extreme = sum(abs(sum(chosen) - expected) >= seen - 1e-9 for chosen in combinations(all_ranks, len(one)))
    return extreme / total


def _normal_p(distance: float, one: int, two: int) -> float:
    from math import erfc, sqrt

    return erfc(max(0.0, distance - 0.5) / sqrt(one * two * (one + two + 1) / 12) / sqrt(2))
