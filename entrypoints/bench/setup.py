"""From options to a job: who this node is, its plan, and the workload's command. Nothing is started here."""

import importlib.util
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from entrypoints import ROOT
from entrypoints.binding import BindMode
from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.nodes.rendezvous import Rendezvous, resolve
from entrypoints.placement.model import Plan
from entrypoints.topology.model import Topology
from entrypoints.workloads import Prepared, Request, Workload, get

#: The folder that holds the package, for ranks that import it from another working directory.
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

    @property
    def first_rank(self) -> int:
        return self.rendezvous.node_rank * len(self.plan.ranks)


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
    workload, why = pick(args, environ, request)
    plan = make_plan(topology, PlanOptions(ranks=args.ranks, environ=environ, workload=workload.placement))
    prepared = workload.prepare(request)
    return Job(args, rendezvous, topology, plan, workload, prepared, bind, why)


def check(args: Namespace) -> None:
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
    from entrypoints.bench import options
    from entrypoints.parser import OneLineParser
    from entrypoints.placement.plan import check_ranks

    parser = OneLineParser(prog="epbox bench", allow_abbrev=False, add_help=False)
    options.configure(parser)
    args = parser.parse_args(words)
    check(args)
    BindMode.parse(args.bind)
    if args.ranks is not None:
        check_ranks(args.ranks)
    if args.workload is not None and args.workload not in FAMILIES:
        get(args.workload)


def make_request(args: Namespace, environ: Mapping[str, str], nodes: int, plan: Plan, topology: Topology) -> Request:
    gpus = sum(rank.gpu_index is not None for rank in plan.ranks)
    return Request(
        nodes=nodes,
        ranks=len(plan.ranks),
        gpus=gpus,
        num_tokens=args.num_tokens,
        hidden=args.hidden,
        num_topk=args.num_topk,
        num_topk_groups=args.num_topk_groups,
        num_experts=args.num_experts,
        seed=args.seed,
        warmup=args.warmup,
        repeats=args.repeats,
        extra=tuple(args.arguments[1:]),
        deepep_path=args.deepep_path,
        hcas=len(topology.hcas),
        environ=environ,
    )


def pick(args: Namespace, environ: Mapping[str, str], request: Request) -> tuple[Workload, str]:
    """The workload that was named (option, then EPBOX_WORKLOAD), or the one `auto` chooses."""
    from entrypoints.workloads.auto import choose

    name = args.workload or environ.get("EPBOX_WORKLOAD") or "auto"
    if name not in FAMILIES:
        try:
            return get(name), "asked for"
        except UsageError as error:
            raise UsageError(error.what, where="--workload" if args.workload else "EPBOX_WORKLOAD", hint=error.hint) from None
    chosen, why = choose(request)
    return get(chosen), f"auto: {why}"


def own_port(there: Rendezvous, args: Namespace, environ: Mapping[str, str]) -> Rendezvous:
    """A single node that was given no port takes a free one, so two runs on one host do not meet."""
    if there.nodes > 1 or args.master_port is not None or environ.get("MASTER_PORT"):
        return there
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return replace(there, master_port=min(port, 65533))


def rank_python(environ: Mapping[str, str]) -> str:
    """The interpreter of the ranks: EPBOX_PYTHON, else this one. Raises PreflightFailed when this one has no torch."""
    told = environ.get("EPBOX_PYTHON")
    if told:
        return told
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
        family, _, _, _, where = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(where)
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == own for each in addresses):
            return str(name)
    return None


def rank_environment(job: Job, environ: Mapping[str, str]) -> dict[str, str]:
    """What every rank gets on top of this process's environment; the user's own choices stay."""
    paths = [str(ROOT), environ.get("PYTHONPATH", "")]
    env = {**job.rendezvous.environment(), **job.prepared.env, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    env["EPBOX_JOIN_TIMEOUT"] = f"{job.args.join_timeout:g}"
    if job.prepared.script:
        tests = str(Path(job.prepared.argv[0]).parent)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), tests, environ.get("PYTHONPATH", "")]))
    if "GLOO_SOCKET_IFNAME" not in environ:
        interface = loopback_or_route(job.rendezvous.master_addr)
        if interface:
            env["GLOO_SOCKET_IFNAME"] = interface
    return env
