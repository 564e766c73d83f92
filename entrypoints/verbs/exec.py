"""exec: run a command as one bound rank (under any launcher), or start and supervise N of them."""

import os
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path

from entrypoints.binding import BindMode, bind
from entrypoints.errors import UsageError
from entrypoints.launch.child import find_program
from entrypoints.launch.model import LaunchOptions, RankCommand
from entrypoints.launch.supervisor import run as supervise
from entrypoints.nodes.rendezvous import resolve
from entrypoints.nodes.sources import LocalRank, find_local_rank
from entrypoints.output import say
from entrypoints.parser import add_topology_option
from entrypoints.placement.model import Plan
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load


def configure(parser: ArgumentParser) -> None:
    parser.usage = "epbox exec [options] -- CMD [ARGUMENTS]"
    add_topology_option(parser)
    parser.add_argument("--bind", default="all", metavar="WHAT", help="all (default), none, or a comma list of nic, cpu, mem")
    parser.add_argument("--strict", action="store_true", help="exit 3 when any part of the binding cannot be done")
    parser.add_argument("--ranks", type=int, metavar="N", help="without a launcher: start N supervised ranks; with one: the local ranks")
    parser.add_argument("--workload", default="deepep-v1", metavar="NAME", help="whose variables are set (default: deepep-v1)")
    parser.add_argument("--log-dir", type=Path, metavar="DIR", help="with --ranks: keep rank-N.log and stacks here")
    parser.add_argument("--timeout", type=float, metavar="S", help="with --ranks: no output of any rank for S seconds is a hang (exit 5)")
    parser.add_argument("--total-timeout", type=float, metavar="S", help="with --ranks: bound of the whole run (exit 5)")
    parser.add_argument("--grace", type=float, default=5.0, metavar="S", help="with --ranks: seconds from TERM to KILL (default 5)")
    parser.add_argument("command", nargs=REMAINDER, metavar="-- CMD", help="the command and its arguments")


def run(args: Namespace) -> int:
    """The exit code of a supervised run; a single rank becomes the command, and does not return."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        raise UsageError("no command given", hint="exec [options] -- CMD [ARGUMENTS]")
    mode = BindMode.parse(args.bind)
    if args.ranks is not None and args.ranks < 1:
        raise UsageError(f"{args.ranks} ranks asked for", where="--ranks", hint="at least one is needed")
    for option in ("timeout", "total_timeout", "grace"):
        value = getattr(args, option)
        if value is not None and not 0 < value < 1e9:
            raise UsageError(f"{value:g} is not a number of seconds above 0", where=f"--{option.replace('_', '-')}")
    launched = find_local_rank(os.environ, args.ranks)
    if launched is None and args.ranks is not None:
        return _supervise(args, command, mode)
    for option in ("log_dir", "timeout", "total_timeout"):
        if getattr(args, option) is not None:
            hint = f"leave it to {launched.source}" if launched else "give --ranks N too"
            raise UsageError("is for ranks that exec starts itself", where=f"--{option.replace('_', '-')}", hint=hint)
    return _become(args, command, mode, launched or LocalRank(0, 1, "default"))


def _plan(args: Namespace, ranks: int | None) -> Plan:
    return make_plan(load(args.topology), PlanOptions(ranks=ranks, environ=dict(os.environ), workload=args.workload))


def _become(args: Namespace, command: list[str], mode: BindMode, rank_here: LocalRank) -> int:
    """Bind this process and replace it: numactl for one rank, with nothing left in between."""
    plan = _plan(args, rank_here.ranks)
    if rank_here.local_rank >= len(plan.ranks):
        raise UsageError(
            f"local rank {rank_here.local_rank} ({rank_here.source}), but the plan has {len(plan.ranks)} ranks",
            hint="the launcher does not tell how many ranks share a node: give --ranks or set LOCAL_WORLD_SIZE",
        )
    rank = plan.ranks[rank_here.local_rank]
    environ = RankCommand(rank, tuple(command), rank=rank.local_rank).environment(mode, len(plan.ranks))
    program = find_program(command[0], environ)
    for sentence in bind(rank.cpus, rank.memory, mode, args.strict).degradations:
        say(f"epbox exec: local rank {rank.local_rank}: {sentence}")
    if rank.local_rank == 0:
        for warning in plan.warnings:
            say(f"epbox exec: {warning}")
    try:
        os.execve(program, command, environ)
    except OSError as error:
        raise UsageError(f"cannot be executed: {error.strerror}", where=program) from None


def _supervise(args: Namespace, command: list[str], mode: BindMode) -> int:
    """Start the ranks here, with the variables that torchrun would give them."""
    node = resolve(None, os.environ)
    plan = _plan(args, args.ranks)
    for warning in plan.warnings:
        say(f"epbox exec: {warning}")
    count = len(plan.ranks)
    commands = []
    for rank in plan.ranks:
        number = node.node_rank * count + rank.local_rank
        numbers = {"RANK": number, "WORLD_SIZE": node.nodes * count, "LOCAL_RANK": rank.local_rank, "LOCAL_WORLD_SIZE": count}
        env = node.environment() | {name: str(value) for name, value in numbers.items()}
        commands.append(RankCommand(rank, tuple(command), env, number))
    options = LaunchOptions(
        log_dir=args.log_dir,
        bind=mode,
        strict=args.strict,
        timeout_s=args.timeout,
        total_timeout_s=args.total_timeout,
        grace_s=args.grace,
        split_output=True,
    )
    outcome = supervise(commands, options)
    if outcome.exit_code:
        say(f"epbox exec: {outcome.cause}")
    return outcome.exit_code
