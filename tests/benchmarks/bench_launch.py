"""What launching costs: ranks of `python3 -c pass` by EPBox, by a shell loop of numactl, and by torchrun, in one run.

    .venv/bin/python tests/benchmarks/bench_launch.py [--repeats 7] [--torchrun PATH] [--format json]

All contenders take turns, and the fastest turn of each is compared: what else a machine does only ever adds to a launch, so the
minimum is what a launch costs. The bounds are 8 ranks <= 10 x the shell loop and <= 0.1 x torchrun, and 64 ranks growing no
faster than in proportion. Exit 7 above a bound.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL_BOUND, TORCHRUN_BOUND = 10, 0.1
#: 64 ranks may take this much more than 64/8 times the 8-rank launch.
LINEAR_BOUND = 1.25


def epbox(python: str, ranks: int) -> list[str]:
    return [python, "-m", "entrypoints", "exec", "--ranks", str(ranks), "--", python, "-c", "pass"]


def shell_loop(python: str, ranks: int) -> list[str]:
    """The plan by hand: one core a rank, round robin over the allowed ones, as the plan itself has to do on a small host."""
    cpus = sorted(os.sched_getaffinity(0))
    lines = [f"numactl --physcpubind={cpus[i % len(cpus)]} {python} -c pass &" for i in range(ranks)]
    return ["bash", "-c", "\n".join([*lines, "wait"])]


def torchrun(path: str, python: str, ranks: int) -> list[str]:
    return [path, "--nproc-per-node", str(ranks), "--no-python", python, "-c", "pass"]


def measure(contenders: dict[str, list[str]], repeats: int, environ: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of every round, after one round that warms caches and byte code."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, argv in contenders.items():
            begun = time.perf_counter()
            result = subprocess.run(argv, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            took = time.perf_counter() - begun
            if result.returncode:
                sys.exit(f"{name} failed with {result.returncode}: {result.stderr[-500:]}")
            if turn:
                seconds[name].append(took)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description="launch overhead of EPBox against numactl in a shell loop, and torchrun")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--python", default=os.path.realpath(sys.executable), help="interpreter of all contenders and ranks")
    parser.add_argument("--torchrun", default=shutil.which("torchrun"), help="torchrun to compare with (default: from PATH)")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    args = parser.parse_args()
    if shutil.which("numactl") is None:
        sys.exit("numactl is not installed: nothing to compare with")
    contenders = {
        "epbox 8": epbox(args.python, 8),
        "shell loop 8": shell_loop(args.python, 8),
        "epbox 64": epbox(args.python, 64),
        "shell loop 64": shell_loop(args.python, 64),
    }
    if args.torchrun:
        contenders["torchrun 8"] = torchrun(args.torchrun, args.python, 8)
    with tempfile.TemporaryDirectory() as cache:
        # As installed software has it: byte code is there, wherever the checkout lies.
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "SLURM_LOCALID"):
            environ.pop(name, None)
        seconds = measure(contenders, args.repeats, environ)
    best = {name: min(values) for name, values in seconds.items()}
    ratios = {
        "epbox 8 / shell loop 8": (best["epbox 8"] / best["shell loop 8"], SHELL_BOUND),
        "epbox 64 / (8 x epbox 8)": (best["epbox 64"] / (8 * best["epbox 8"]), LINEAR_BOUND),
    }
    if args.torchrun:
        ratios["epbox 8 / torchrun 8"] = (best["epbox 8"] / best["torchrun 8"], TORCHRUN_BOUND)
    missed = [name for name, (ratio, bound) in ratios.items() if ratio > bound]
    if args.format == "json":
        found = {"seconds": seconds, "best": best, "ratios": {name: {"ratio": r, "bound": b} for name, (r, b) in ratios.items()}}
        print(json.dumps(found, indent=2))
    else:
        for name, values in seconds.items():
            print(f"{name:16} min {best[name]:7.3f} s   median {statistics.median(values):7.3f} s   max {max(values):7.3f} s")
        for name, (ratio, bound) in ratios.items():
            print(f"{name:26} {ratio:6.2f}  (bound {bound:g}) {'MISSED' if name in missed else 'ok'}")
        if not args.torchrun:
            print("torchrun is not here: that comparison was not made", file=sys.stderr)
    return 7 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
