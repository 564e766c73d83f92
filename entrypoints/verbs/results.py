"""results LOG...: parse DeepEP test logs, compare them, and fail when they are below a threshold."""

import argparse
from pathlib import Path
from typing import Any

from entrypoints.errors import BelowThreshold, UsageError
from entrypoints.output import emit_json, say, table


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
    from entrypoints.results import show

    render = show.markdown if args.format == "markdown" else table
    if args.nodes is not None and args.nodes < 1:
        raise UsageError(f"--nodes {args.nodes}: a run has at least one node")
    for option in ("port_gbps", "ports", "min_ratio"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UsageError(f"--{option.replace('_', '-')} {value:g}: give a number above 0")
    if args.reference:
        if args.min_ratio is None:
            raise UsageError("--reference: goes with --min-ratio only")
        _check_reference(args.reference)
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
        emit_json(document)
    else:
        print(show.document_text(document, render))
    _gate(args, document)
    return 0


def _check_reference(name: str) -> None:
    """Raises UsageError, with the names there are, for one that no published result has."""
    from entrypoints.results.compare import references

    known = sorted({reference["id"] for reference in references()})
    if name not in known:
        raise UsageError(f"--reference {name}: no such reference", hint="one of " + ", ".join(known))


def _document(args: argparse.Namespace) -> dict[str, Any]:
    from entrypoints.results import compare
    from entrypoints.results.collect import collect
    from entrypoints.results.metrics import summary

    found, omitted = collect(args.log, args.sweep)
    runs = [compare.with_nodes(run, args.nodes) for run in found]
    notes = []
    if omitted:
        notes.append(f"{omitted} further runs are in these logs; only the first {len(runs)} are listed")
    if any(run["test"] == "internode" and not run["shape"].get("nodes") for run in runs):
        notes.append("the number of nodes is not in the log: give --nodes to compare with references and the wire")
    elif not args.port_gbps:
        notes += [text for run in runs[:1] if (text := compare.local_share(run))]
    references: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs[:1000]:
        for row in compare.against_references(run):
            references.setdefault((row["metric"], row["id"]), row)
    wire = [row for run in runs[:1] if args.port_gbps for row in compare.against_wire(run, args.port_gbps, args.ports)]
    if len(runs) > 1 and references:
        notes.append("references stand beside the first run that has the figure; see the statistics for the others")
    return {
        "schema": "epbox.result/1",
        "runs": runs,
        "summary": summary(runs),
        "references": list(references.values()),
        "wire": wire,
        "notes": notes,
    }


def _gate(args: argparse.Namespace, document: dict[str, Any]) -> None:
    """Raise BelowThreshold (exit 7) for the first threshold that is not reached; a gate without anything to measure is a usage error."""
    from entrypoints.results.metrics import metrics, on_plan

    judged = on_plan(document["runs"])
    if args.require_complete:
        for run in judged:
            if not run.get("complete"):
                raise BelowThreshold(f"{run['test']} is not complete: {'; '.join(run.get('missing', []))}", where=run.get("source"))
    if args.min_ratio is not None:
        rows = document["references"]
        if not rows:
            raise UsageError("--min-ratio: no reference has this test and shape", hint="give --nodes, or use --min-gbps")
        best: dict[str, dict[str, Any]] = {}
        for row in rows:
            wanted = row["id"] == args.reference if args.reference else row["bound"] is not False
            # Ratios are better above 1 for bandwidths and times alike: the lowest is against the best published figure.
            if wanted and row["ratio"] < best.get(row["metric"], {"ratio": float("inf")})["ratio"]:
                best[row["metric"]] = row
        if not best:
            raise UsageError(
                f"--min-ratio: no reference {args.reference or ''} for these figures",
                hint="entrypoints/results/references.toml has them all",
            )
        for row in best.values():
            if row["ratio"] < args.min_ratio:
                text = f"{row['metric']}: {row['value']} is {row['ratio']:.2f} of {row['reference']} ({row['id']}: {row['source']})"
                raise BelowThreshold(f"{text}, asked for {args.min_ratio}")
    for asked in args.min_gbps:
        name, _, text = asked.rpartition("=")
        try:
            least = float(text)
        except ValueError:
            raise UsageError(f"--min-gbps {asked}: no number", hint="for example 40 or combine=45") from None
        measured = 0
        for run in judged:
            found = metrics(run)
            between = any(direction == "rdma" for _, direction in found)
            for (operation, direction), value in found.items():
                wanted = not name or operation == name or operation.partition("/")[0] == name
                if not wanted or direction == "us" or (between and direction == "nvl"):
                    continue
                measured += 1
                if value < least:
                    raise BelowThreshold(f"{operation} ({direction}): {value:.2f} GB/s, asked for {least:g}", where=run.get("source"))
        if not measured:
            raise UsageError(f"--min-gbps {asked}: no such figure in these results")


def _compare(args: argparse.Namespace, render: Any) -> int:
    from entrypoints.results import compare, show
    from entrypoints.results.collect import collect

    sides = [[compare.with_nodes(run, args.nodes) for run in collect([path])[0]] for path in args.compare]
    rows = compare.compare(*sides)
    if args.format == "json":
        emit_json({"schema": "epbox.comparison/1", "a": args.compare[0], "b": args.compare[1], "rows": rows})
    else:
        say(f"A: {args.compare[0]}\nB: {args.compare[1]}")
        print(show.comparison_text(rows, render))
    return 0


def _history(args: argparse.Namespace, render: Any) -> int:
    from entrypoints.results import history, show

    series = history.series(history.load(Path(args.history)))
    if args.format == "json":
        emit_json({"schema": "epbox.history/1", "series": series})
    else:
        print(show.history_text(series, history.spark, render))
    return 0
