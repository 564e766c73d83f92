"""results LOG...: parse DeepEP test logs, compare them, and fail when they are below a threshold."""

import argparse
from pathlib import Path

from entrypoints.errors import BelowThreshold, UsageError
from entrypoints.logs.parse import collect
from entrypoints.output import emit_json, say
from entrypoints.results import comparison, history, references, show, thresholds
from entrypoints.results.codec import encode
from entrypoints.results.metrics import figure_rows, on_plan
from entrypoints.results.model import ParsedRuns, Run
from entrypoints.results.tables import to_markdown, to_text

#: Runs that are held against published results: a log of 300 MB has thousands.
MOST_COMPARED = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log", nargs="*", help="logs, folders, result.json, index.jsonl; - is standard input; gzip, xz, bzip2 and zstd are unpacked"
    )
    parser.add_argument("--format", choices=("table", "json", "markdown"), default="table")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of nodes, where the log does not tell it")
    parser.add_argument("--port-gbps", type=float, metavar="GBIT", help="line rate of an HCA port in Gb/s, to compare with the wire")
    parser.add_argument("--ports", type=int, default=1, metavar="N", help="HCA ports a rank has for itself (default 1)")
    parser.add_argument("--sweep", action="store_true", help="keep the points of the tuning sweep in the JSON")
    parser.add_argument("--min-ratio", type=float, metavar="R", help="exit 7 when a figure is below R times the reference")
    parser.add_argument(
        "--reference",
        metavar="ID",
        help="the reference of --min-ratio (default: the highest of the same test and shape, unbound ones left out)",
    )
    parser.add_argument(
        "--min-gbps",
        action="append",
        default=[],
        metavar="[OP=]GBPS",
        help="exit 7 when the bandwidth of OP (dispatch/fp8, dispatch/bf16, combine; default every one) is lower",
    )
    parser.add_argument("--require-complete", action="store_true", help="exit 7 when a run lacks lines that its test prints")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two logs, folders or result.json files side by side")
    parser.add_argument("--history", metavar="INDEX", nargs="?", const="results/index.jsonl", help="results over time, regressions marked")


def run(args: argparse.Namespace) -> int:
    render = to_markdown if args.format == "markdown" else to_text
    if args.nodes is not None and args.nodes < 1:
        raise UsageError(f"--nodes {args.nodes}: a run has at least one node")
    for option in ("port_gbps", "ports", "min_ratio"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UsageError(f"--{option.replace('_', '-')} {value:g}: give a number above 0")
    if args.reference:
        if args.min_ratio is None:
            raise UsageError("--reference: goes with --min-ratio only")
        names = sorted({reference.id for reference in references.references()})
        if args.reference not in names:
            raise UsageError(f"--reference {args.reference}: no such reference", hint="one of " + ", ".join(names))
    if len(args.log) == 1 and args.log[0].endswith(".jsonl"):
        args.history = args.history or args.log[0]
    if args.history:
        return _history(args, render)
    if args.compare:
        return _compare(args, render)
    if not args.log:
        raise UsageError("no log given", hint="epbox results LOG, or - for standard input")
    document = _document(args)
    if args.format == "json":
        emit_json(encode(document))
    else:
        print(show.runs_text(document, render))
    _gate(args, document.runs)
    return 0


def _document(args: argparse.Namespace) -> ParsedRuns:
    collected = collect(args.log, args.sweep)
    runs = [references.with_nodes(run, args.nodes) for run in collected.runs]
    notes = []
    if collected.omitted:
        notes.append(f"{collected.omitted} further runs are in these logs; only the first {len(runs)} are listed")
    if any(run.test == "internode" and not run.shape.nodes for run in runs):
        notes.append("the number of nodes is not in the log: give --nodes to compare with references and the wire")
    elif not args.port_gbps:
        notes += filter(None, [references.local_share(runs[0])])
    published = references.against_references(on_plan(runs)[:MOST_COMPARED])
    if len(runs) > 1 and published:
        notes.append("references stand beside the median over the runs of the same test and shape")
    return ParsedRuns(
        runs=tuple(runs),
        summary=figure_rows(runs),
        references=published,
        wire=references.against_wire(runs[0], args.port_gbps, args.ports) if args.port_gbps else (),
        notes=tuple(notes),
    )


def _gate(args: argparse.Namespace, runs: tuple[Run, ...]) -> None:
    """Raise BelowThreshold (exit 7) for what is below a threshold; one without anything to hold against it is a usage error."""
    judgements = thresholds.judge_completeness(runs) if args.require_complete else []
    if args.min_ratio is not None:
        ratios = thresholds.judge_ratio(runs[:MOST_COMPARED], args.min_ratio, args.reference)
        if not ratios:
            raise UsageError(
                f"--min-ratio: no {args.reference or 'reference'} has this test, shape and figures",
                hint="give --nodes, or use --min-gbps; entrypoints/results/references.toml has all references",
            )
        judgements += ratios
    for text in args.min_gbps:
        bandwidths = thresholds.judge_bandwidth(runs, thresholds.parse_bandwidth(text))
        if not bandwidths:
            raise UsageError(f"--min-gbps {text}: no such figure in these results")
        judgements += bandwidths
    if missed := thresholds.missed(judgements):
        raise BelowThreshold("; ".join(missed))


def _compare(args: argparse.Namespace, render: show.Render) -> int:
    before, after = ([references.with_nodes(run, args.nodes) for run in collect([path]).runs] for path in args.compare)
    rows = comparison.compare(before, after)
    if args.format == "json":
        emit_json({"schema": "epbox.comparison/1", "a": args.compare[0], "b": args.compare[1], "rows": encode(rows)})
    else:
        say(f"A: {args.compare[0]}\nB: {args.compare[1]}")
        print(render(show.compared_table(rows)))
    return 0


def _history(args: argparse.Namespace, render: show.Render) -> int:
    series = history.series(history.load(Path(args.history)))
    if args.format == "json":
        emit_json({"schema": "epbox.history/1", "series": encode(series)})
    else:
        print(show.history_text(series, render))
    return 0
