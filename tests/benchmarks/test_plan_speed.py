"""How long `plan` takes: processor time of whole processes, the least of several.

Run with `pytest tests/benchmarks/test_plan_speed.py -s`; the figures are printed. The bounds: 0.25 s on a dumped host of 8 GPUs,
and at most 6 times that host's time on one eight times as large.
"""

import os
import sys
from pathlib import Path

import pytest

from tests.helpers import sysfs_tree
from tests.helpers.placing import ROOT

RUNS = 15
MOST_MS, MOST_LARGE = 250, 6


def processor_ms(*command: str, env: dict[str, str] | None = None) -> float:
    """Least user + system milliseconds of the command's process; output is thrown away."""
    best = float("inf")
    for _ in range(RUNS):
        child = os.fork()
        if child == 0:
            os.chdir(ROOT)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.execve(command[0], command, {**os.environ, **(env or {})})
        _, status, usage = os.wait4(child, 0)
        assert status == 0, command
        best = min(best, (usage.ru_utime + usage.ru_stime) * 1000)
    return best


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hosts")
    return {
        "small": sysfs_tree.build(folder / "small", sysfs_tree.large(8, 9, 96, 2)),
        "large": sysfs_tree.build(folder / "large", sysfs_tree.large(64, 64, 1024, 16)),
    }


def test_plan_speed(roots: dict[str, Path], tmp_path: Path) -> None:
    # Bytecode of one's own, so that a read-only or bytecode-free checkout is measured as an installed one.
    env = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    plan = {
        name: processor_ms(sys.executable, "-m", "entrypoints", "plan", "--topology", str(root), "--format", "json", env=env)
        for name, root in roots.items()
    }
    print(f"\nplan, 8 GPUs {plan['small']:.1f} ms")
    print(f"plan, 64 GPUs, 64 HCAs, 1024 CPUs {plan['large']:.1f} ms = {plan['large'] / plan['small']:.1f} x the small one")
    assert plan["small"] <= MOST_MS
    assert plan["large"] <= MOST_LARGE * plan["small"]
