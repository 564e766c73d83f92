# ruff: noqa: PTH100, PTH109, PTH118, PTH120
"""Runs one rank of an unmodified script: `python rank.py SCRIPT [ARGUMENTS]` or `python rank.py -m MODULE [ARGUMENTS]`.

The process was bound before this interpreter started. The script runs as __main__ just as `python SCRIPT` would run it,
except that torch.multiprocessing.spawn and start_processes call their function in this process, for this local rank.
This file is self-contained: it is started by path, in the interpreter that has torch, and imports only the standard library.
"""

import atexit
import faulthandler
import os
import signal
import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

#: The supervisor sends it for a dump of all Python stacks; a real-time signal that neither CUDA, NCCL nor job schedulers use.
STACK_SIGNAL = signal.SIGRTMIN + 5
#: Where spawn lives, and where it is known under a second name.
SPAWN_MODULES = ("torch.multiprocessing.spawn", "torch.multiprocessing")


def script_command(script: str, arguments: "tuple[str, ...] | list[str]" = (), python: str = sys.executable) -> "tuple[str, ...]":
    """The argv of a RankCommand that runs `script` (a path, or "-m" followed by a module in `arguments`)."""
    return (python, os.path.abspath(__file__), script, *arguments)


class SpawnContext:
    """What spawn(join=False) returns: the work is done already, join() tells how it ended."""

    def __init__(self, error: "BaseException | None") -> None:
        self._error = error
        self.processes: list[Any] = []
        self.error_files: list[str] = []
        self.sentinels: dict[Any, Any] = {}

    def pids(self) -> "list[int]":
        return [os.getpid()]

    def join(self, timeout: "float | None" = None, grace_period: "float | None" = None) -> bool:
        if self._error is not None:
            raise self._error
        return True


class DirectSpawn:
    """spawn and start_processes of torch.multiprocessing for a process that is one rank already."""

    def __init__(self, local_rank: int, local_ranks: int, script: str) -> None:
        self.local_rank, self.local_ranks, self.script = local_rank, local_ranks, script

    def __call__(
        self, fn: Any, args: Any = (), nprocs: int = 1, join: bool = True, daemon: bool = False, start_method: str = "spawn", **_: Any
    ) -> "SpawnContext | None":
        if nprocs != self.local_ranks:
            print(
                f"epbox: {self.script} spawns {nprocs} processes, but the plan has {self.local_ranks} ranks on this node; "
                f"give the script {self.local_ranks} (DeepEP's tests: --num-processes {self.local_ranks}) or plan --ranks {nprocs}",
                file=sys.stderr,
            )
            sys.exit(2)
        try:
            fn(self.local_rank, *args)
        except SystemExit as end:
            # In a process of its own this would have ended that process, not the script.
            if end.code not in (None, 0):
                raise
        except Exception as error:
            if join:
                raise
            return SpawnContext(error)
        return None if join else SpawnContext(None)


class SpawnHook:
    """Finds torch.multiprocessing as ever, and replaces spawn once the module has run. Torch is never imported from here."""

    def __init__(self, spawn: DirectSpawn) -> None:
        self.spawn = spawn

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> "ModuleSpec | None":
        if name not in SPAWN_MODULES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for attribute in ("spawn", "start_processes"):
                if callable(getattr(module, attribute, None)):
                    setattr(module, attribute, self.spawn)

        loader.exec_module = exec_module
        return spec


def keep_evidence() -> None:
    """Copy what /proc says about this process to the supervisor's descriptor, while the pages still exist."""
    with suppress(KeyError, ValueError, OSError), open("/proc/self/numa_maps", "rb") as maps:
        os.pwrite(int(os.environ["EPBOX_EVIDENCE_FD"]), maps.read(), 0)


def watch() -> None:
    """Python stacks of all threads on STACK_SIGNAL and on fatal signals, into the supervisor's descriptor."""
    try:
        stacks = int(os.environ["EPBOX_STACKS_FD"])
        faulthandler.enable(file=stacks, all_threads=True)
        faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True, chain=False)
    except (KeyError, ValueError, OSError, RuntimeError):
        faulthandler.enable()
    atexit.register(keep_evidence)


def run_script(script: str, arguments: "list[str]") -> None:
    """Run the file as __main__, with sys.argv, sys.path[0] and the module's own names as `python SCRIPT` gives them."""
    with open(script, "rb") as stream:
        source = stream.read()
    # As CPython makes it absolute: nothing is normalised.
    path = os.path.join(os.getcwd(), script)
    sys.argv = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    module = ModuleType("__main__")
    module.__dict__.update(__builtins__=__builtins__, __file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))
    if "__annotations__" in globals():
        module.__dict__.update(__annotations__={})
    sys.modules["__main__"] = module
    exec(compile(source, path, "exec"), module.__dict__)


def run_module(name: str, arguments: "list[str]") -> None:
    """Run a module as `python -m` would."""
    import runpy

    sys.argv = [name, *arguments]
    sys.path[0] = os.getcwd()
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def main(arguments: "list[str]") -> None:
    if not arguments or (arguments[0] == "-m" and len(arguments) < 2):
        sys.exit("usage: rank.py SCRIPT [ARGUMENTS] | rank.py -m MODULE [ARGUMENTS]")
    run, (target, *rest) = (run_module, arguments[1:]) if arguments[0] == "-m" else (run_script, arguments)
    local_rank, local_ranks = int(os.environ.get("EPBOX_LOCAL_RANK", "0")), int(os.environ.get("EPBOX_LOCAL_RANKS", "1"))
    watch()
    sys.meta_path.insert(0, SpawnHook(DirectSpawn(local_rank, local_ranks, target)))  # type: ignore[arg-type]
    try:
        run(target, rest)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        # The traceback starts in the script, not in this launcher.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
