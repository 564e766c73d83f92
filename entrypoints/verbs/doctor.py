"""Check this host and container before a run; exit 3 when a check fails."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from entrypoints.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for",
        dest="workload",
        metavar="WORKLOAD",
        help="alltoall, deepep-v1, deepep-v2, a workload of bench, or auto (default): EPBOX_WORKLOAD, else the image's, else deepep-v1",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="table on stderr, or one JSON document on stdout")
    parser.add_argument(
        "--topology", metavar="FILE", help="examine a sysfs root, tarball, NCCL XML, matrix or our JSON instead of this host"
    )
    parser.add_argument("--root", metavar="DIR", help="read /proc and /sys below DIR (a copy of another host)")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of nodes in the job (default: WORLD_SIZE)")
    parser.add_argument("--log", metavar="FILE", help="log of an earlier run with NVSHMEM_DEBUG=INFO, for the NIC handler")
    parser.add_argument(
        "--timeout", type=float, default=3.0, metavar="S", help="seconds for all checks together, and for each probe at least (default: 3)"
    )
    parser.add_argument("--probe", action="store_true", help="also open devices, move data and load libraries (up to a minute)")


def run(args: argparse.Namespace) -> int:
    from entrypoints.output import emit_json, say, wants_colour
    from entrypoints.preflight.files import files_of
    from entrypoints.preflight.report import document, text
    from entrypoints.preflight.run import default_workload, load_topology, make_host, relevant, run_on, workload_of
    from entrypoints.results.model import Check

    if args.root and not Path(args.root).is_dir():
        raise UsageError("not a folder", where=args.root, hint="--root takes a copy of a host's root with proc and sys in it")
    if args.nodes is not None and args.nodes < 1:
        raise UsageError(f"{args.nodes} nodes", where="--nodes", hint="give 1 or more")
    if not args.timeout > 0:
        raise UsageError(f"{args.timeout:g} seconds", where="--timeout", hint="give more than 0")
    if args.probe and (args.root or args.topology):
        raise UsageError("--probe works on the running host alone", hint="drop --root and --topology")
    files = files_of(args.root or args.topology)
    requested = None if args.workload == "auto" else args.workload
    workload = workload_of(requested or default_workload(files, os.environ))
    topology, silent = load_topology(args.topology or args.root)
    # A topology from a file replaces the whole host: nothing of this one may stand in for what the file lacks.
    environ = os.environ if args.root or args.topology else _with_rendezvous()
    host = make_host(workload, topology, files, environ, nodes=args.nodes, log=_log(args.log))
    probes: list[Check] = []
    if args.probe:
        from entrypoints.preflight.active.probes import run_probes

        # First, so that the checks judge the libraries that were really loaded.
        probes, loaded = run_probes(host, args.timeout)
        host = replace(host, loaded=loaded)
    results = [*([silent] if silent else []), *run_on(host, relevant(host.workload), args.timeout)]
    if args.format == "json":
        emit_json(document(host, results, probes))
    else:
        say(text(host.workload, [*results, *probes], wants_colour()))
    return 3 if any(result.status == "FAIL" for result in [*results, *probes]) else 0


def _with_rendezvous() -> Mapping[str, str]:
    """The environment with MASTER_ADDR and WORLD_SIZE as a scheduler's variables give them, as bench's own preflight sees it."""
    from entrypoints.errors import EPBoxError
    from entrypoints.nodes.rendezvous import resolve

    try:
        there = resolve(None, os.environ)
    except EPBoxError:
        # Contradictions are for bench to tell; a check that needs them says what it lacks.
        return os.environ
    return {**os.environ, **there.environment()} if there.nodes > 1 else os.environ


def _log(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        with open(name, "rb") as stream:
            return stream.read(64 << 20).decode(errors="replace")
    except OSError as error:
        raise UsageError(error.strerror or "unreadable", where=name, hint="--log takes a text file") from None
