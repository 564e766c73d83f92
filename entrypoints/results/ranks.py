"""The end of ranks in a result: what launch fills. A module of its own, since `exec` starts by it and needs no more of a result."""

from dataclasses import dataclass, field
from typing import Any

#: A value whose form belongs to another room (a plan, a port's counters).
JsonObject = dict[str, Any]

#: Metadata of a field that is left out of the JSON where it is None; others are written as null.
OMIT = {"omit_if_none": True}


@dataclass(frozen=True, kw_only=True)
class Record:
    """`extra` holds the keys that this version does not know, so that reading and writing a file loses nothing."""

    extra: JsonObject = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Evidence(Record):
    """The kernel's report of one rank; `traffic` are the counters of its rail over the run, by their names.

    Memory is in bytes by node: of mappings without a file (`memory_bytes`) and of the others (`file_bytes`).
    """

    #: CPUs of the plan, as a kernel list under "cpus"; what the kernel said right after binding: CPUs, policy and nodes.
    planned: dict[str, str] | None = field(default=None, metadata=OMIT)
    cpus: str | None = field(default=None, metadata=OMIT)
    memory: JsonObject | None = field(default=None, metadata=OMIT)
    degradations: tuple[str, ...] | None = field(default=None, metadata=OMIT)
    mems: str | None = field(default=None, metadata=OMIT)
    threads: int | None = field(default=None, metadata=OMIT)
    policies: tuple[str, ...] | None = field(default=None, metadata=OMIT)
    policy: str | None = field(default=None, metadata=OMIT)
    memory_bytes: dict[str, int] | None = field(default=None, metadata=OMIT)
    file_bytes: dict[str, int] | None = field(default=None, metadata=OMIT)
    #: Threads that left the planned CPUs for good, and those that were back at a second look.
    threads_outside: int | None = field(default=None, metadata=OMIT)
    threads_moved: int | None = field(default=None, metadata=OMIT)
    #: Lines in which NVSHMEM names its device and NIC handler.
    nvshmem: tuple[str, ...] | None = field(default=None, metadata=OMIT)
    rail: str | None = field(default=None, metadata=OMIT)
    traffic: dict[str, int] | None = field(default=None, metadata=OMIT)
    output_left_out_bytes: int | None = field(default=None, metadata=OMIT)
    log_error: str | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class RankRecord(Record):
    """The end of one rank. `exit_code` is None when a signal ended it."""

    rank: int
    local_rank: int
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, kw_only=True)
class Placement(Record):
    """Plan against evidence of one node."""

    text: str
    ok: bool
    deviations: tuple[str, ...] = ()
