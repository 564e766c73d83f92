"""The tuning sweep of one operation: which chunk sizes were tried, and whether that is all the test tries."""

from dataclasses import dataclass, field

#: Sizes of the sweeps in DeepEP 1.0.0 to 2.1.0; the smallest of all generations is the least a whole sweep has.
_LEAST_INTERNODE = {"dispatch": (8, 8), "combine": (4, 6)}
_LEAST_INTRANODE = {"dispatch": 8, "combine": 4}
_WITH_DEFAULT = {"dispatch": {0, *range(4, 33, 2)}, "combine": set(range(17))}


@dataclass
class Sweep:
    """Points as printed: (NVL chunk, RDMA chunk) -> (RDMA GB/s, NVL GB/s), in bytes; numbers are made of them when asked for."""

    raw: dict[tuple[bytes, bytes | None], tuple[bytes | None, bytes]] = field(default_factory=dict)

    @property
    def points(self) -> dict[tuple[int, int], tuple[float | None, float]]:
        """The same in numbers; chunk 0 is the kernel's default."""
        return {
            (0 if nvl == b"default" else int(nvl), int(rdma or 0)): (float(values[0]) if values[0] else None, float(values[1]))
            for (nvl, rdma), values in self.raw.items()
        }

    def problem(self, operation: str, best: tuple[int, int], internode: bool) -> str | None:
        """Why this is not a whole sweep that contains its best point, or None."""
        points = self.points
        if not points:
            return "no tuning line"
        if best not in points:
            return f"its best point (NVL chunk {best[0]}{f', RDMA chunk {best[1]}' if internode else ''}) has no tuning line"
        nvl = {point[0] for point in points}
        rdma = {point[1] for point in points}
        if len(points) != len(nvl) * len(rdma):
            return f"{len(points)} of {len(nvl) * len(rdma)} chunk pairs"
        if internode:
            least_nvl, least_rdma = _LEAST_INTERNODE[operation]
            if len(nvl) < least_nvl or len(rdma) < least_rdma:
                return f"{len(nvl)} NVL x {len(rdma)} RDMA chunk sizes, at least {least_nvl} x {least_rdma} are tried"
        elif 0 in nvl:
            if nvl != _WITH_DEFAULT[operation]:
                return f"{len(nvl)} of {len(_WITH_DEFAULT[operation])} chunk sizes"
        elif len(nvl) < _LEAST_INTRANODE[operation]:
            return f"{len(nvl)} chunk sizes, at least {_LEAST_INTRANODE[operation]} are tried"
        return None

    def rows(self) -> list[list[float | int | None]]:
        """[NVL chunk, RDMA chunk, RDMA GB/s, NVL GB/s] in the order of chunk sizes."""
        return [[nvl, rdma or None, *values] for (nvl, rdma), values in sorted(self.points.items())]
