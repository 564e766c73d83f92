"""bench's options, and the job they make: who this node is, its plan, and the workload's command. Nothing is started here."""

import importlib.util
import os
import socket
import sys
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from entrypoints import ROOT
from entrypoints.binding import BindMode
from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.nodes.rendezvous import Rendezvous, add_options, resolve
from entrypoints.parser import OneLineParser, add_topology_option
from entrypoints.placement.model import Plan
from entrypoints.topology.model import Topology
from entrypoints.workloads import Choice, Prepared, Request, Workload, choose, get

#: An image may name its family, which doctor checks for; which of its tests fits is for auto to say.
FAMILIES = ("auto", "deepep-v1", "deepep-v2")


@dataclass(frozen=True)
class Job:
    """Everything a launch needs. `why` says why this workload, when it was chosen by `auto`."""

    args: Namespace
    rendezvous: Rendezvous
    topology: Topology
    plan: Plan
    workload: Workload
    prepared: Prepared
    bind: BindMode
    why: str


def configure(parser: ArgumentParser) -> None:
    """Add every option of bench."""
    parser.usage = "epbox bench [options] [-- TEST ARGUMENTS]"
    parser.add_argument("--workload", metavar="NAME", help="auto (default), alltoall, deepep-internode, deepep-intranode, ...")
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks on this node (default: its visible GPUs, else 1)")
    add_options(parser)
    add_topology_option(parser)
    shape = parser.add_argument_group("shape", "defaults are the workload's own")
    for name, text in (
        ("num-tokens", "tokens a rank"),
        ("hidden", "elements a token"),
        ("num-topk", "experts a token"),
        ("num-topk-groups", "nodes a token may go to"),
        ("num-experts", "experts of all ranks together"),
        ("repeats", "alltoall: timed repeats within a run"),
        ("warmup", "alltoall: untimed repeats before them"),
    ):
        shape.add_argument(f"--{name}", type=int, metavar="N", help=text)
    shape.add_argument("--seed", type=int, default=0, metavar="N", help="alltoall: seed of routes and data (default 0)")
    shape.add_argument("--deepep-path", metavar="DIR", help="DeepEP's source tree (default: EPBOX_DEEPEP_PATH, else the image's)")
    how = parser.add_argument_group("run")
    how.add_argument("--bind", default="all", metavar="WHAT", help="all (default), none, or a comma list of nic, cpu, mem")
    how.add_argument("--strict", action="store_true", help="exit 3 when any part of the binding cannot be done")
    how.add_argument(
        "--runs", type=int, metavar="N", help="launch the workload N times and report median and spread (default 1; 3 with --ablate)"
    )
    how.add_argument("--ablate", action="store_true", help="what each part of the binding is worth: all arms, interleaved over --runs")
    how.add_argument(
        "--baseline", action="store_true", help="run the all-to-all of the same shape in turns with a DeepEP workload, and give the ratio"
    )
    how.add_argument(
        "--timeout", type=float, default=300.0, metavar="S", help="no output of any rank for S seconds is a hang (default 300)"
    )
    how.add_argument("--total-timeout", type=float, metavar="S", help="bound of one run")
    how.add_argument("--join-timeout", type=float, default=120.0, metavar="S", help="how long nodes wait for each other (default 120)")
    how.add_argument("--no-doctor", action="store_true", help="start without the preflight checks")
    how.add_argument("--force", action="store_true", help="run the preflight checks, and start even if one fails")
    how.add_argument("--dry-run", action="store_true", help="show the plan and the commands, start nothing")
    gate = parser.add_argument_group("gate", "exit 7 below it")
    gate.add_argument("--min-gbps", type=float, metavar="X", help="least bandwidth of every best row (RDMA over nodes, NVL within one)")
    gate.add_argument("--min-ratio", type=float, metavar="X", help="least ratio to the published reference of this test and shape")
    out = parser.add_argument_group("output")
    out.add_argument("--out", type=Path, metavar="DIR", help="result folder (default: results/<UTC time>)")
    text = "table on stderr, or result.json on stdout as well (jsonl: in one line)"
    out.add_argument("--format", choices=("table", "json", "jsonl"), default="table", help=text)
    out.add_argument("--quiet", action="store_true", help="keep the ranks' output to the logs")
    parser.add_argument("arguments", nargs=REMAINDER, metavar="-- ARGUMENTS", help="passed to the test as they are")


def make_job(args: Namespace, environ: Mapping[str, str]) -> Job:
    """Read the host and check everything that can be wrong before a rank starts. Raises UsageError, NoPlan, PreflightFailed."""
    from entrypoints.placement.plan import PlanOptions, make_plan
    from entrypoints.topology import load

    check(args)
    bind = BindMode.parse(args.bind)
    rendezvous = own_port(resolve(args, environ), args, environ)
    topology = load(args.topology)
    # Which GPUs a rank would get decides the workload, and the workload decides the variables: plan once for each.
    draft = make_plan(topology, PlanOptions(ranks=args.ranks, environ=environ, workload="alltoall"))
    request = make_request(args, environ, rendezvous.nodes, draft, topology)
    choice = pick(args, environ, request)
    workload = get(choice.workload)
    plan = make_plan(topology, PlanOptions(ranks=args.ranks, environ=environ, workload=workload.placement))
    return Job(args, rendezvous, topology, plan, workload, workload.prepare(request), bind, choice.reason)


def check(args: Namespace) -> None:
    """Raise UsageError for options that contradict themselves or each other."""
    if args.runs is None:
        args.runs = 3 if args.ablate else 1
    if args.runs < 1:
        raise UsageError(f"{args.runs} runs", where="--runs", hint="use at least 1")
    for option in ("timeout", "total_timeout", "join_timeout", "min_gbps", "min_ratio"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UsageError(f"{value:g} is not above 0", where=f"--{option.replace('_', '-')}")
    if args.arguments and args.arguments[0] != "--":
        raise UsageError(f"unexpected {args.arguments[0]!r}", hint="arguments for the test come after --")
    if args.ablate and args.bind != "all":
        raise UsageError("--ablate goes through all bindings itself", where="--bind", hint="leave one of the two out")


def check_words(words: Sequence[str]) -> None:
    """Refuse options of bench that no host would accept; for those who write them down for a later run. Raises UsageError."""
    from entrypoints.placement.plan import check_ranks

    parser = OneLineParser(prog="epbox bench", allow_abbrev=False, add_help=False)
    configure(parser)
    args = parser.parse_args(words)
    check(args)
    BindMode.parse(args.bind)
    if args.ranks is not None:
        check_ranks(args.ranks)
    if args.workload is not None and args.workload not in FAMILIES:
        get(args.workload)


def make_request(args: Namespace, environ: Mapping[str, str], nodes: int, plan: Plan, topology: Topology) -> Request:
    """The request to a workload on this plan. The sizes are options of bench under the same names."""
    names = ("num_tokens", "hidden", "num_topk", "num_topk_groups", "num_experts", "seed", "warmup", "repeats", "deepep_path")
    return Request(
        nodes=nodes,
        ranks=len(plan.ranks),
        gpus=sum(rank.gpu_index is not None for rank in plan.ranks),
        **{name: getattr(args, name) for name in names},
        extra=tuple(args.arguments[1:]),
        hcas=len(topology.hcas),
        environ=environ,
    )


def pick(args: Namespace, environ: Mapping[str, str], request: Request) -> Choice:
    """The workload that was named (option, then EPBOX_WORKLOAD), or the one `auto` chooses."""
    name = args.workload or environ.get("EPBOX_WORKLOAD") or "auto"
    if name in FAMILIES:
        choice = choose(request)
        return choice._replace(reason=f"auto: {choice.reason}")
    try:
        return Choice(get(name).name, "asked for")
    except UsageError as error:
        raise UsageError(error.what, where="--workload" if args.workload else "EPBOX_WORKLOAD", hint=error.hint) from None


def own_port(rendezvous: Rendezvous, args: Namespace, environ: Mapping[str, str]) -> Rendezvous:
    """The rendezvous, with a free port for a single node that was given none: two runs on one host do not meet."""
    if rendezvous.nodes > 1 or args.master_port is not None or environ.get("MASTER_PORT"):
        return rendezvous
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return replace(rendezvous, master_port=min(port, 65533))


def rank_python(environ: Mapping[str, str]) -> str:
    """The interpreter of the ranks: EPBOX_PYTHON, else this one. Raises PreflightFailed when this one has no torch."""
    named = environ.get("EPBOX_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("torch") is None:
        raise PreflightFailed(
            "this Python has no torch, and every workload needs it",
            where=sys.executable,
            hint="run in an EPBox image, install torch (a CPU build will do for alltoall), or name one that has it in EPBOX_PYTHON",
        )
    return sys.executable


def loopback_or_route(address: str) -> str | None:
    """The network interface that reaches `address`: gloo takes what the host name resolves to, which in containers is often wrong."""
    import psutil

    try:
        family, _, _, _, remote = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(remote)
            local = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == local for entry in addresses):
            return str(name)
    return None


def rank_environment(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that every rank gets on top of this process's; the user's own choices stay."""
    tests = str(Path(job.prepared.argv[0]).parent) if job.prepared.script else ""
    paths = filter(None, [str(ROOT), tests, environ.get("PYTHONPATH", "")])
    env = {**job.rendezvous.environment(), **job.prepared.env, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    env["EPBOX_JOIN_TIMEOUT"] = f"{job.args.join_timeout:g}"
    if "GLOO_SOCKET_IFNAME" not in environ:
        interface = loopback_or_route(job.rendezvous.master_addr)
        if interface:
            env["GLOO_SOCKET_IFNAME"] = interface
    return env
