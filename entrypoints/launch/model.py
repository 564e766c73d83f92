"""Commands and options of a launch, and its outcomes."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from entrypoints.binding import BindMode
from entrypoints.nodes.session import Session
from entrypoints.placement.model import RankPlan
from entrypoints.results.ranks import RankRecord

#: Variables that choose an HCA; they are left out of a rank's environment when `nic` is not bound.
NIC_VARIABLES = frozenset(
    ("NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PREFIX", "NVSHMEM_HCA_PE_MAPPING", "NVSHMEM_ENABLE_NIC_PE_MAPPING", "NCCL_IB_HCA", "EP_NIC_NAME")
)


@dataclass(frozen=True)
class RankCommand:
    """One rank to start. `env` is added to this process's environment; the plan's own variables go on top of it."""

    plan: RankPlan
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    #: Global rank; the prefix and the log file are named by it.
    rank: int = 0

    def environment(self, mode: BindMode, local_ranks: int) -> dict[str, str]:
        """All variables of the rank: this process's and its own."""
        planned = {name: value for name, value in self.plan.env.items() if mode.nic or name not in NIC_VARIABLES}
        local = {"EPBOX_LOCAL_RANK": str(self.plan.local_rank), "EPBOX_LOCAL_RANKS": str(local_ranks)}
        return {**os.environ, **self.env, **planned, "EPBOX_RANK": str(self.rank), **local}


@dataclass(frozen=True)
class LaunchOptions:
    """Bounds are in seconds; None means no bound."""

    #: Folder for rank-N.log and rank-N.stacks; None keeps no files.
    log_dir: Path | None = None
    bind: BindMode = field(default_factory=BindMode)
    strict: bool = False
    #: Silence: no output of any rank for this long is a hang.
    timeout_s: float | None = None
    total_timeout_s: float | None = None
    #: From TERM to KILL.
    grace_s: float = 5.0
    #: Forward the ranks' stdout to stdout and stderr to stderr; otherwise both go to stderr in one order.
    split_output: bool = False
    #: Show no output of ranks at all (log files still get it).
    quiet: bool = False
    #: A log keeps this many bytes from its start, and `log_tail` from its end.
    log_limit: int = 64 << 20
    log_tail: int = 1 << 20
    #: The other nodes: lost() ends this one's ranks when one of them is gone, and its abort() tells them of a failure here.
    session: Session | None = None
    #: Called with each signal that ends the run, also with one that comes too late for the supervisor to act on.
    on_stop: Callable[[int], None] | None = None
    #: Tests point it at a made-up tree.
    sysfs: Path = Path("/sys")


@dataclass(frozen=True)
class RankOutcome:
    """The end of one rank: its record for result.json, its log file, and its Python stacks of a hang or a fatal signal."""

    record: RankRecord
    pid: int
    log: Path | None = None
    stacks: str = ""


@dataclass(frozen=True)
class LaunchOutcome:
    """`exit_code` is EPBox's own (0, 3, 4, 5 or 128 + N); `cause` is one line, empty when all went well."""

    ranks: tuple[RankOutcome, ...]
    exit_code: int
    cause: str = ""
