"""Verb dispatch: each verb is one module in verbs/; an unknown first word is exec'ed as a command."""

import os
import sys
from collections.abc import Sequence

from entrypoints.errors import ExitCode, of_signal

VERBS = {
    "bench": "run a workload bound by the plan, and prove it (the default)",
    "doctor": "check this host and container before a run",
    "topology": "show packages, NUMA nodes, GPUs and HCAs",
    "plan": "who gets which GPU, HCA, cores and memory node, and why",
    "exec": "run a command as one bound rank: exec -- CMD",
    "results": "parse DeepEP test logs, compare, gate",
    "report": "one HTML page of a result folder",
    "diagnose": "name the cause of a failed log",
    "snapshot": "gather what a plan needs into one file",
    "shell": "an interactive shell in this environment",
    "version": "versions, lock and image identity",
}


def run_verb(verb: str, arguments: Sequence[str]) -> int:
    """Import one verb's module and run it; only that verb's imports are paid for."""
    from importlib import import_module

    from entrypoints.parser import OneLineParser

    module = import_module(f"entrypoints.verbs.{verb}")
    parser = OneLineParser(prog=f"epbox {verb}", description=VERBS[verb], allow_abbrev=False)
    module.configure(parser)
    code: int = module.run(parser.parse_args(arguments))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else "bench"
    if first in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        verbs = "\n".join(f"  {verb.ljust(width)}  {text}" for verb, text in VERBS.items())
        print(f"usage: epbox VERB [options]  (VERB --help tells more)\n\n{verbs}\n\nAny other first word is run as a command.")
        return 0
    if first == "--version":
        first = "version"
    if first.startswith("-"):
        print(f"epbox: unknown option {first}; see epbox --help", file=sys.stderr)
        return ExitCode.USAGE
    if first not in VERBS:
        return run_command(arguments)
    from entrypoints.errors import EPBoxError

    if os.getpid() == 1:
        # The kernel drops signals of PID 1 that have no handler: without one, `docker stop` would wait and then KILL.
        import signal

        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda received, _: sys.exit(of_signal(received)))
    try:
        return run_verb(first, arguments[1:])
    except EPBoxError as error:
        print(f"epbox {first}: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name != "psutil":
            raise
        print(f"epbox {first}: {sys.executable}: this Python has no psutil; install it, or use ./inv's: .venv/bin/python", file=sys.stderr)
        return ExitCode.PREFLIGHT
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (| head): not an error, but stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def run_command(arguments: Sequence[str]) -> int:
    """Replace this process by the user's command, as docker images with a verb entrypoint do."""
    try:
        os.execvp(arguments[0], list(arguments))
    except OSError as error:
        print(f"epbox: {arguments[0]}: {error.strerror}; not a verb and not a command, see epbox --help", file=sys.stderr)
        return ExitCode.USAGE


if __name__ == "__main__":
    sys.exit(main())
