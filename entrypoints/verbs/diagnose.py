"""diagnose LOG...: the cause of a failed run, with the line that shows it and what to do."""

import argparse
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.output import emit_json, say


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", nargs="*", help="logs, folders of logs or a result folder; - is standard input (default: the newest result)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--facts", metavar="DIR", help="result folder with result.json, plan.json or doctor.json (default: beside the log)")
    parser.add_argument("--bundle", metavar="OUT.tar.gz", help="also gather logs, plan, doctor and versions for a bug report; no secrets")


def run(args: argparse.Namespace) -> int:
    from entrypoints.diagnosis.facts import beside, gather, newest_result
    from entrypoints.diagnosis.match import diagnose_paths
    from entrypoints.diagnosis.report import as_text, to_json

    logs = [Path(name) for name in args.log] or [newest_result()]
    if args.facts and not Path(args.facts).is_dir():
        raise UsageError("no such folder", where=f"--facts {args.facts}", hint="bench writes results/TIME/ with a result.json in it")
    facts = gather(Path(args.facts) if args.facts else beside(logs))
    for text in facts.unreadable:
        say(f"note: {text}")
    findings = diagnose_paths(logs, facts)
    if args.bundle:
        from entrypoints.diagnosis.bundle import write_bundle

        members = write_bundle(Path(args.bundle), logs, findings, facts.folder)
        say(f"{args.bundle}: {len(members)} files, without secrets; read it before you send it")
    if args.format == "json":
        emit_json(to_json(findings))
    else:
        print(as_text(findings))
    return 0
