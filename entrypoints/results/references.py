"""A run's figures beside published ones of the same test and shape (references.toml), and beside the wire."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

from entrypoints.results.codec import decode
from entrypoints.results.metrics import Metric, by_group, metrics
from entrypoints.results.model import ReferenceRow, Run, WireRow
from entrypoints.results.ranks import Record
from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("references.toml")
_DIRECTIONS = {"rdma": "RDMA", "nvl": "NVL", "total": "total", "us": "us"}


@dataclass(frozen=True, kw_only=True)
class Reference(Record):
    """One published result; `values` are its figures by operation (`dispatch/fp8`) and direction."""

    id: str
    source: str
    hardware: str
    test: str
    nodes: int
    ranks: int
    num_tokens: int | None = None
    hidden: int | None = None
    version: str | None = None
    #: Whether its ranks were bound to cores, memory and NIC; None where its source does not say.
    bound: bool | None = None
    values: dict[str, dict[str, float]]

    def fits(self, test: str, sizes: Mapping[str, int | str]) -> bool:
        """True for the same test and shape. What a log does not say is no reason to refuse, except the nodes of a run between nodes."""
        if test != self.test or ("nodes" not in sizes and test != "low_latency"):
            return False
        names = [name for name in ("nodes", "ranks", "num_tokens", "hidden") if name in sizes]
        return all(getattr(self, name) in (None, sizes[name]) for name in names)

    def figures(self) -> dict[Metric, float]:
        """The published figures."""
        named = ((name.partition("/"), figures) for name, figures in self.values.items())
        return {Metric(op, dtype or None, _DIRECTIONS[key]): value for (op, _, dtype), figures in named for key, value in figures.items()}


class Beside(NamedTuple):
    """A metric of the runs of one shape beside a published figure: the medians, and the ratio of each run by its position."""

    metric: Metric
    row: ReferenceRow
    ratios: dict[int, float]


@cache
def references() -> tuple[Reference, ...]:
    """The published results."""
    return decode(tuple[Reference, ...], load_toml(TABLE)["reference"], str(TABLE))


def with_nodes(run: Run, nodes: int | None) -> Run:
    """The run with its number of nodes and ranks filled in where they follow from the test or from `nodes`."""
    nodes = run.shape.nodes or nodes
    if not nodes:
        return run
    # The internode kernels need 8 ranks a node.
    ranks = run.shape.ranks or (8 * nodes if run.test == "internode" else None)
    return replace(run, shape=replace(run.shape, nodes=nodes, ranks=ranks))


def published(test: str, sizes: Mapping[str, int | str]) -> list[Reference]:
    """The published results of this test and shape."""
    return [reference for reference in references() if reference.fits(test, sizes)]


def beside_published(runs: Sequence[Run]) -> list[Beside]:
    """Each metric of each test and shape beside each published figure of the same."""
    rows = []
    for group, figures in by_group(runs).items():
        for reference in published(group.test, dict(group.shape)):
            for metric, figure in reference.figures().items():
                by_run = figures.get(metric, {})
                ratios = {position: round(metric.ratio(value, figure), 3) for position, value in by_run.items()}
                if not ratios:
                    continue
                row = ReferenceRow(
                    metric=metric.label,
                    value=round(median(by_run.values()), 4),
                    reference=figure,
                    ratio=round(median(ratios.values()), 4),
                    id=reference.id,
                    hardware=reference.hardware,
                    version=reference.version,
                    bound=reference.bound,
                    source=reference.source,
                )
                rows.append(Beside(metric, row, ratios))
    return rows


def against_references(runs: Sequence[Run]) -> tuple[ReferenceRow, ...]:
    """Medians over the runs of each test and shape, a row for each published figure of the same."""
    return tuple(beside.row for beside in beside_published(runs))


def strictest(rows: Iterable[Beside], name: str | None = None) -> list[Beside]:
    """Per metric the best published figure: of the reference `name`, else of all that are not said to be unbound."""
    best: dict[Metric, Beside] = {}
    for beside in rows:
        wanted = beside.row.bound is not False if name is None else beside.row.id == name
        # Ratios are better above 1 for bandwidths and times alike: the lowest is against the best published figure.
        if wanted and (beside.metric not in best or beside.row.ratio < best[beside.metric].row.ratio):
            best[beside.metric] = beside
    return list(best.values())


def against_wire(run: Run, port_gbit: float, ports: int) -> tuple[WireRow, ...]:
    """Bandwidths off the node, beside the line rate of a rank's ports.

    DeepEP counts a token once for every node it goes to, its own included (tests/test_internode.py). With experts spread
    evenly, (N - 1) / N of that leaves the node, which is why a figure above the line rate is no error.
    """
    nodes = run.shape.nodes
    if run.test not in ("internode", "elastic_ep") or not nodes or nodes < 2:
        return ()
    line_rate = port_gbit / 8 * ports
    rows = []
    for metric, value in metrics(run).items():
        if metric.direction == "RDMA":
            wire = value * (nodes - 1) / nodes
            text = f"{nodes - 1} of {nodes} nodes are remote: {value:.2f} GB/s counted is {wire:.2f} GB/s on a wire of {line_rate:.0f}"
            rows.append(
                WireRow(
                    metric=metric.label,
                    value=value,
                    off_node_gbps=round(wire, 2),
                    line_rate_gbps=line_rate,
                    share=round(wire / line_rate, 3),
                    explanation=text,
                )
            )
    return tuple(rows)


def local_share(run: Run) -> str:
    """A note that "GB/s (RDMA)" may be above a port's line rate, for a run between nodes; "" for others."""
    nodes = run.shape.nodes
    rdma = [value for metric, value in metrics(run).items() if metric.direction == "RDMA"]
    if run.test != "internode" or not nodes or nodes < 2 or not rdma:
        return ""
    top = max(rdma)
    return (
        f"GB/s (RDMA) counts a token for its own node too, and may be above a port's line rate: {nodes - 1} of {nodes} leaves the node, "
        f"here up to {top * (nodes - 1) / nodes:.2f} of {top:.2f} GB/s (--port-gbps sets that beside the wire)"
    )
