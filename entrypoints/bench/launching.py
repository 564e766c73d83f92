"""One launch of the job on this node: commands for the supervisor, and what came of it."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrypoints.bench.setup import Job, rank_environment, rank_python
from entrypoints.binding import BindMode
from entrypoints.errors import EXIT_CODES, EPBoxError
from entrypoints.launch.model import LaunchOptions, LaunchOutcome, RankCommand
from entrypoints.launch.rank import script_command
from entrypoints.launch.signals import Stop
from entrypoints.nodes.session import Session

WRONG_NUMBERS = 6
#: Nodes end a launch together; this bounds the wait for one that does not.
ALIGN_S = 120.0


@dataclass(frozen=True)
class NodeRun:
    """One launch on one node. `runs` are parsed results (empty where this node printed none)."""

    outcome: LaunchOutcome
    runs: tuple[dict[str, Any], ...]
    correctness: dict[str, Any] | None
    exit_code: int
    cause: str
    bind: str
    arm: str = ""
    seconds: float = 0.0


def commands(job: Job, extra_env: dict[str, str] | None = None, python: str | None = None) -> list[RankCommand]:
    """A command for every local rank; `python` is their interpreter (default: the one that has torch)."""
    env = {**rank_environment(job, os.environ), **(extra_env or {})}
    argv = script_command(job.prepared.argv[0], job.prepared.argv[1:], python or rank_python(os.environ))
    return [RankCommand(rank, argv, env, job.first_rank + rank.local_rank) for rank in job.plan.ranks]


def align(job: Job, session: Session, stop: Stop) -> tuple[int, str]:
    """Wait until every node has ended its last launch, so that the next one finds the master port free. (0, "") when all are there."""
    code, cause = 0, ""
    if job.rendezvous.nodes > 1 and not stop.exit_code:
        try:
            session.gather({"ready": True}, ALIGN_S, lambda _: {"ready": True}, stop.at_once)
        except EPBoxError as error:
            code, cause = error.exit_code, str(error)
    if stop.exit_code:
        session.abort(stop.cause, stop.exit_code)
        return stop.exit_code, stop.cause
    return code, cause


def launch(
    job: Job, bind: BindMode, logs: Path, session: Session, stop: Stop, arm: str = "", extra_env: dict[str, str] | None = None
) -> NodeRun:
    """Run all local ranks to their end. Never raises for what a rank does."""
    from entrypoints.bench.parsing import read_logs
    from entrypoints.launch.supervisor import run

    args = job.args
    code, cause = align(job, session, stop)
    if code:
        return NodeRun(LaunchOutcome((), code, cause), (), None, code, cause, str(bind), arm)
    options = LaunchOptions(
        log_dir=logs,
        bind=bind,
        strict=args.strict,
        timeout_s=args.timeout,
        total_timeout_s=args.total_timeout,
        session=session if job.rendezvous.nodes > 1 else None,
        quiet=args.quiet,
        on_stop=stop.note,
    )
    start = time.monotonic()
    outcome = run(commands(job, extra_env), options)
    seconds = time.monotonic() - start
    paths = [rank.log for rank in outcome.ranks if rank.log is not None]
    runs, correctness = read_logs(job.prepared, paths)
    code, cause = judge(outcome, correctness)
    return NodeRun(outcome, tuple(runs), correctness, code, cause, str(bind), arm, seconds)


def judge(outcome: LaunchOutcome, correctness: dict[str, Any] | None) -> tuple[int, str]:
    """EPBox's exit code and one line. A rank that found wrong numbers outranks the deaths that follow from it."""
    wrong = [rank.rank for rank in outcome.ranks if rank.exit_code == WRONG_NUMBERS]
    if wrong:
        found = (correctness or {}).get("failures") or []
        return WRONG_NUMBERS, found[0] if found else f"seen by rank {wrong[0]}"
    return outcome.exit_code, outcome.cause


def meaning(code: int) -> str:
    """What an exit code says, for a verdict: the first words of its entry in the table."""
    text = EXIT_CODES.get(code, "interrupted" if code > 128 else "failed")
    return re.split(r"[(;:,]", text)[0].strip()
