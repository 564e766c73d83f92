"""Times of a repeated collective, and what is reported of them: the median and its spread, never the best alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from entrypoints.results.metrics import quartiles
from entrypoints.results.model import Stat

#: An FP8 token against a BF16 one: one byte an element and a float32 scale per 128 of them.
FP8_FACTOR = (1 + 4 / 128) / 2


def summarise(per_rank: Sequence[Sequence[float]]) -> Stat:
    """Microseconds, to a nanosecond, of `per_rank[rank][repeat]`: a collective has ended when its slowest rank has."""
    slowest = [max(values) for values in zip(*per_rank, strict=True)]
    edges = quartiles(slowest)
    return Stat(
        median=round(median(slowest), 3),
        p25=round(edges.p25, 3),
        p75=round(edges.p75, 3),
        min=round(min(slowest), 3),
        max=round(max(slowest), 3),
        repeats=len(slowest),
    )


def gbps(count: float, microseconds: float) -> float:
    """Bytes in microseconds as GB/s (1e9 bytes a second, DeepEP's unit)."""
    return count / microseconds / 1e3 if microseconds > 0 else 0.0


@dataclass(frozen=True)
class Volume:
    """Bytes of one direction in BF16, averaged over ranks.

    `rdma`: tokens times nodes they go to, the local one included. `nvl`: tokens received. Both as DeepEP's internode test counts.
    `wire`: what this workload really sends to other nodes (one copy a rank; DeepEP sends one a node).
    """

    rdma: float
    nvl: float
    wire: float

    def scaled(self, factor: float) -> "Volume":
        return Volume(self.rdma * factor, self.nvl * factor, self.wire * factor)
