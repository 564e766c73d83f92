"""How long `plan` and `topology` take, as ratios of one run: python3 tests/benchmarks/bench_plan.py [--rounds N].

Small host: 8 GPUs, 9 HCAs, 96 CPUs. Large host: 64 GPUs, 64 HCAs, 1,024 CPUs. Yardsticks of the same run:
`python3 -c pass`, and `lstopo --of xml` on the same small tree. Commands take turns, so that a busy machine is busy for all.
Bytecode is cached in a folder of its own, as an installed program has it; "plan small, no bytecode" is a checkout's first run.
Medians of processor time (user + system) make the ratios, because wall time on a shared machine is also other people's;
wall times stand beside them. JSON goes to stdout; exit 1 when a bound is missed.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.helpers.sysfs_tree import build, large  # noqa: E402 - the path comes first

#: The bounds: `plan` on the small host, and how many times that the large one may take.
MOST_MS, MOST_LARGE = 250, 6.0


@dataclass(frozen=True)
class Contender:
    """A command, the folder it runs in, and its environment beyond ours."""

    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str]

    def milliseconds(self) -> tuple[float, float]:
        """Processor time (user + system) and wall time of one run whose output is thrown away."""
        begun = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.chdir(self.folder)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.execvpe(self.command[0], self.command, {**os.environ, **self.environment})
        _, status, usage = os.wait4(child, 0)
        if status:
            sys.exit(f"{' '.join(self.command)} failed")
        return (usage.ru_utime + usage.ru_stime) * 1000, (time.perf_counter() - begun) * 1000


def contenders(folder: Path) -> dict[str, Contender]:
    """The commands, over hosts and copies of the program that are made in `folder`."""
    small, big = build(folder / "small", large(8, 9, 96, 2)), build(folder / "large", large(64, 64, 1024, 16))
    for name in ("cached", "bare"):
        shutil.copytree(REPOSITORY / "entrypoints", folder / name / "entrypoints", ignore=shutil.ignore_patterns("__pycache__"))

    def epbox(verb: str, host: Path, program: str = "cached") -> Contender:
        command = (sys.executable, "-m", "entrypoints", verb, "--topology", str(host), "--format", "json")
        return Contender(command, folder / program, {"PYTHONDONTWRITEBYTECODE": "1" if program == "bare" else ""})

    found = {
        "pass": Contender((sys.executable, "-c", "pass"), folder, {}),
        "plan small": epbox("plan", small),
        "plan large": epbox("plan", big),
        "plan small, no bytecode": epbox("plan", small, "bare"),
        "topology small": epbox("topology", small),
        "topology large": epbox("topology", big),
    }
    if shutil.which("lstopo-no-graphics"):
        replay = {"HWLOC_COMPONENTS": "linux,stop", "HWLOC_FSROOT": str(small), "HWLOC_THISSYSTEM": "0"}
        found["lstopo small"] = Contender(("lstopo-no-graphics", "--of", "xml", "-"), folder, replay)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="plan and topology against python3 -c pass and lstopo")
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        entered = contenders(Path(folder))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in entered}
        for turn in range(rounds + 1):
            for name, contender in entered.items():
                taken = contender.milliseconds()
                if turn:  # the first round fills caches and compiles modules
                    times[name].append(taken)
    processor = {name: statistics.median(taken[0] for taken in values) for name, values in times.items()}
    wall = {name: statistics.median(taken[1] for taken in values) for name, values in times.items()}
    pairs = {
        "plan small / pass": ("plan small", "pass"),
        "plan large / plan small": ("plan large", "plan small"),
        "plan small, no bytecode / pass": ("plan small, no bytecode", "pass"),
        "topology small / pass": ("topology small", "pass"),
    }
    met = {
        f"plan small <= {MOST_MS} ms": processor["plan small"] <= MOST_MS,
        f"plan large <= {MOST_LARGE:g} x plan small": processor["plan large"] <= MOST_LARGE * processor["plan small"],
    }
    if "lstopo small" in entered:
        pairs["plan small / lstopo small"] = ("plan small", "lstopo small")
    document = {
        "rounds": rounds,
        "processor_ms": {name: round(value, 1) for name, value in processor.items()},
        "wall_ms": {name: round(value, 1) for name, value in wall.items()},
        "processor_ratios": {name: round(processor[one] / processor[other], 2) for name, (one, other) in pairs.items()},
        "wall_ratios": {name: round(wall[one] / wall[other], 2) for name, (one, other) in pairs.items()},
        "met": met,
    }
    print(json.dumps(document, indent=2))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
