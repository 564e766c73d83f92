"""bench's command line."""

from argparse import REMAINDER, ArgumentParser
from pathlib import Path

from entrypoints.nodes.rendezvous import add_options
from entrypoints.parser import add_topology_option


def configure(parser: ArgumentParser) -> None:
    """Add every option of bench."""
    parser.usage = "epbox bench [options] [-- TEST ARGUMENTS]"
    parser.add_argument(
        "--workload", default=None, metavar="NAME", help="auto (default), alltoall, deepep-internode, deepep-intranode, ..."
    )
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks on this node (default: its visible GPUs, else 1)")
    add_options(parser)
    add_topology_option(parser)
    shape = parser.add_argument_group("shape", "defaults are the workload's own")
    for name, what in (
        ("num-tokens", "tokens a rank"),
        ("hidden", "elements a token"),
        ("num-topk", "experts a token"),
        ("num-topk-groups", "nodes a token may go to"),
        ("num-experts", "experts of all ranks together"),
        ("repeats", "alltoall: timed repeats within a run"),
        ("warmup", "alltoall: untimed repeats before them"),
    ):
        shape.add_argument(f"--{name}", type=int, metavar="N", help=what)
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
    formats = ("table", "json", "jsonl")
    out.add_argument(
        "--format", choices=formats, default="table", help="table on stderr, or result.json on stdout as well (jsonl: in one line)"
    )
    out.add_argument("--quiet", action="store_true", help="keep the ranks' output to the logs")
    parser.add_argument("arguments", nargs=REMAINDER, metavar="-- ARGUMENTS", help="passed to the test as they are")
