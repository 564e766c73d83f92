"""Times of a repeated collective, and what is reported of them: the median and its spread, never the best alone."""

from collections.abc import Sequence
from dataclasses import dataclass


def quantile(values: Sequence[float], fraction: float) -> float:
    """The quantile by linear interpolation between order statistics (the common "type 7"). Needs at least one value."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True)
class Times:
    """Microseconds of one operation over its repeats; each is the slowest rank of that repeat."""

    median: float
    p25: float
    p75: float
    min: float
    max: float
    repeats: int

    def to_json(self) -> dict[str, float | int]:
        numbers = {name: round(getattr(self, name), 3) for name in ("median", "p25", "p75", "min", "max")}
        return {**numbers, "repeats": self.repeats}


def summarise(per_rank: Sequence[Sequence[float]]) -> Times:
    """`per_rank[rank][repeat]` in microseconds. A collective is done when its slowest rank is, so the maximum counts."""
    slowest = [max(values) for values in zip(*per_rank, strict=True)]
    return Times(quantile(slowest, 0.5), quantile(slowest, 0.25), quantile(slowest, 0.75), min(slowest), max(slowest), repeats=len(slowest))


def gbps(count: float, microseconds: float) -> float:
    """Bytes in microseconds as GB/s (1e9 bytes a second, DeepEP's unit)."""
    return count / microseconds / 1e3 if microseconds > 0 else 0.0


#: An FP8 token against a BF16 one: one byte an element and a float32 scale per 128 of them.
FP8_FACTOR = (1 + 4 / 128) / 2


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
