"""One launch of the job on this node: commands for the supervisor, and what came of it."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from entrypoints.bench.setup import Job, rank_environment, rank_python
from entrypoints.binding import BindMode
from entrypoints.errors import MEANINGS, EPBoxError, ExitCode
from entrypoints.launch.model import LaunchOptions, LaunchOutcome, RankCommand, RankOutcome
from entrypoints.launch.rank import script_command
from entrypoints.launch.signals import Stop
from entrypoints.nodes.session import Session
from entrypoints.results import model
from entrypoints.results.model import Correctness, Run
from entrypoints.workloads import Prepared

#: Nodes end a launch together; this bounds the wait for one that does not.
ALIGN_S = 120.0


@dataclass(frozen=True)
class Arm:
    """One that takes turns ("" where nothing does): its job, what of the plan is bound, and variables on top."""

    name: str
    job: Job
    bind: BindMode
    env: dict[str, str] = field(default_factory=dict)
    about: str = ""


class RunOutcome(NamedTuple):
    """The end of a run: EPBox's exit code, and the cause ("" when all went well)."""

    exit_code: int
    cause: str = ""


class Printed(NamedTuple):
    """The contents of the ranks' logs of one launch. Without correctness the exit code of the test is its verdict."""

    runs: tuple[Run, ...] = ()
    correctness: Correctness | None = None


class NodeRun(NamedTuple):
    """One launch on one node."""

    ranks: tuple[RankOutcome, ...]
    printed: Printed
    record: model.Launch


def commands(job: Job, extra_env: dict[str, str] | None = None, python: str | None = None) -> list[RankCommand]:
    """A command for every local rank; `python` is their interpreter (default: the one that has torch)."""
    env = {**rank_environment(job, os.environ), **(extra_env or {})}
    argv = script_command(job.prepared.argv[0], job.prepared.argv[1:], python or rank_python(os.environ))
    first_rank = job.rendezvous.node_rank * len(job.plan.ranks)
    return [RankCommand(rank, argv, env, first_rank + rank.local_rank) for rank in job.plan.ranks]


def align(job: Job, session: Session, stop: Stop) -> RunOutcome:
    """Wait until every node has ended its last launch, so that the next one finds the master port free. Exit code 0 when all are there."""
    outcome = RunOutcome(0)
    if job.rendezvous.nodes > 1 and not stop.exit_code:
        try:
            session.gather({"ready": True}, ALIGN_S, lambda _: {"ready": True}, stop.at_once)
        except EPBoxError as error:
            outcome = RunOutcome(error.exit_code, str(error))
    if stop.exit_code:
        session.abort(stop.cause, stop.exit_code)
        return RunOutcome(stop.exit_code, stop.cause)
    return outcome


def launch(arm: Arm, logs: Path, session: Session, stop: Stop) -> NodeRun:
    """Run all local ranks to their end. Never raises for what a rank does."""
    from entrypoints.launch.supervisor import run

    job, args = arm.job, arm.job.args

    def record(ended: RunOutcome, seconds: float) -> model.Launch:
        return model.Launch(
            arm=arm.name or None, bind=str(arm.bind), exit_code=int(ended.exit_code), cause=ended.cause, seconds=round(seconds, 3)
        )

    aligned = align(job, session, stop)
    if aligned.exit_code:
        return NodeRun((), Printed(), record(aligned, 0.0))
    options = LaunchOptions(
        log_dir=logs,
        bind=arm.bind,
        strict=args.strict,
        timeout_s=args.timeout,
        total_timeout_s=args.total_timeout,
        session=session if job.rendezvous.nodes > 1 else None,
        quiet=args.quiet,
        on_stop=stop.note,
    )
    start = time.monotonic()
    outcome = run(commands(job, arm.env), options)
    seconds = time.monotonic() - start
    printed = read_logs(job.prepared, [rank.log for rank in outcome.ranks if rank.log is not None])
    return NodeRun(outcome.ranks, printed, record(node_outcome(outcome, printed.correctness), seconds))


def read_logs(prepared: Prepared, logs: Sequence[Path]) -> Printed:
    """The results of one launch: alltoall's own result line, or what DeepEP's tests print."""
    if not logs:
        return Printed()
    if prepared.test == "alltoall":
        from entrypoints.logs import alltoall

        # Global rank 0 alone prints the result; its log is the first of node 0. Torn lines are left out.
        with logs[0].open(encoding="utf-8", errors="replace") as stream:
            lines = [line for line in map(alltoall.read, stream) if line is not None]
        verdicts = [line.correctness for line in lines if line.correctness is not None]
        return Printed(tuple(line.run for line in lines if line.run is not None), verdicts[-1] if verdicts else None)
    from entrypoints.logs.parse import parse_paths

    return Printed(tuple(parse_paths(logs)))


def node_outcome(outcome: LaunchOutcome, correctness: Correctness | None) -> RunOutcome:
    """EPBox's exit code and one line. A rank that found wrong numbers outranks the deaths that follow from it."""
    wrong = [rank.record.rank for rank in outcome.ranks if rank.record.exit_code == ExitCode.WRONG_NUMBERS]
    if wrong:
        failures = (correctness.failures if correctness else None) or (f"seen by rank {wrong[0]}",)
        return RunOutcome(ExitCode.WRONG_NUMBERS, failures[0])
    return RunOutcome(outcome.exit_code, outcome.cause)


def meaning(code: int) -> str:
    """The meaning of an exit code, for a verdict: the first words of its entry in the table."""
    text = MEANINGS.get(code, "interrupted" if code > 128 else "failed")
    return re.split(r"[(;:,]", text)[0].strip()
