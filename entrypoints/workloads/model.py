"""A workload: a shape that is checked before anything starts, and the command that each rank runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from entrypoints.errors import UsageError


@dataclass(frozen=True)
class Request:
    """The sizes that are requested of a workload, and the host it is for. None means: its default for these nodes and ranks."""

    nodes: int
    ranks: int
    gpus: int = 0
    num_tokens: int | None = None
    hidden: int | None = None
    num_topk: int | None = None
    num_topk_groups: int | None = None
    num_experts: int | None = None
    seed: int = 0
    warmup: int | None = None
    repeats: int | None = None
    extra: tuple[str, ...] = ()
    deepep_path: str | None = None
    hcas: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def world(self) -> int:
        return self.nodes * self.ranks

    def sizes(self, defaults: Mapping[str, int]) -> dict[str, int]:
        """The named sizes, as requested or else by default."""
        return {name: default if (size := getattr(self, name)) is None else size for name, default in defaults.items()}


@dataclass(frozen=True)
class Prepared:
    """A workload ready to start. `argv` is run by every rank; in script mode argv[0] is a test file that spawns its ranks itself."""

    workload: str
    test: str
    argv: tuple[str, ...]
    script: bool
    shape: dict[str, int | None]
    env: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Workload(Protocol):
    """One way to measure. `prepare` raises UsageError for a shape that cannot run, and names the nearest one that can."""

    name: str
    #: The placement room's name of the library under test (decides which variables a plan sets).
    placement: str

    def prepare(self, request: Request) -> Prepared: ...


def nearest(wanted: int, possible: Sequence[int]) -> int:
    """The possible value closest to the wanted one; the smaller of two that are equally close."""
    return min(possible, key=lambda value: (abs(value - wanted), value))


def nearest_multiple(wanted: int, unit: int) -> int:
    """The multiple of `unit` (at least one unit) closest to `wanted`."""
    return max(1, (wanted + unit // 2) // unit) * unit


def require(condition: bool, problem: str, option: str, nearest_possible: str) -> None:
    """Raise UsageError that names the option, and the nearest value that is possible, unless the condition holds."""
    if not condition:
        raise UsageError(problem, where=option, hint=f"nearest possible: {nearest_possible}")


def require_divisible(experts: int, world: int) -> None:
    """Raise UsageError unless every rank holds as many experts as any other."""
    better = nearest_multiple(experts, world)
    require(experts % world == 0, f"{experts} experts do not divide by {world} ranks", "--num-experts", f"--num-experts {better}")
