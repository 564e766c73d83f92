"""How meeting, gathering, writing and reporting grow with the number of nodes; each size in a process of its own.

.venv/bin/python tests/benchmarks/bench_scale.py --nodes 100,300,1000
"""

import argparse
import contextlib
import io
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
STEPS = ("meet and gather", "conclude", "read result.json", "HTML page", "Markdown")


def measure(nodes: int) -> dict[str, float]:
    """CPU and wall seconds of every step in this process, sizes, and the peak of its memory."""
    from entrypoints.report import page
    from entrypoints.report.load import load
    from tests.helpers import large_run

    found: dict[str, float] = {"nodes": nodes}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = min(65000, probe.getsockname()[1])

    def timed(name: str, call):  # type: ignore[no-untyped-def]
        cpu, wall = time.process_time(), time.monotonic()
        value = call()
        found[f"{name} cpu"], found[f"{name} wall"] = time.process_time() - cpu, time.monotonic() - wall
        return value

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        home = Path(folder)
        records, told = timed(STEPS[0], lambda: large_run.gather(nodes, port))
        timed(STEPS[1], lambda: large_run.conclude(records, home))
        material = timed(STEPS[2], lambda: load(home))
        html = timed(STEPS[3], lambda: page.render(material))
        timed(STEPS[4], lambda: page.summary(material))
        found |= {
            "result MB": (home / "result.json").stat().st_size / 1e6,
            "page kB": len(html) / 1e3,
            "answer kB": told["answer_bytes"] / 1e3,
        }
    found["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", default="100,300,1000", help="sizes, comma-separated")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    sizes = [int(word) for word in args.nodes.split(",")]
    rows = []
    for nodes in sizes:
        words = [sys.executable, __file__, "--one", str(nodes)]
        rows.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout))
    last = f"x {sizes[-1] / sizes[0]:g}"
    print(f"{'CPU seconds':18}" + "".join(f"{f'{n} nodes':>12}" for n in sizes) + f"{last:>8}")
    for step in STEPS:
        values = [row[f"{step} cpu"] for row in rows]
        print(f"{step:18}" + "".join(f"{value:12.3f}" for value in values) + f"{values[-1] / max(1e-3, values[0]):8.1f}")
    totals = [sum(row[f"{step} cpu"] for step in STEPS) for row in rows]
    print(f"{'all':18}" + "".join(f"{value:12.3f}" for value in totals) + f"{totals[-1] / totals[0]:8.1f}")
    walls = [sum(row[f"{step} wall"] for step in STEPS) for row in rows]
    print(f"{'all, wall clock':18}" + "".join(f"{value:12.3f}" for value in walls) + f"{walls[-1] / walls[0]:8.1f}")
    for key in ("result MB", "page kB", "answer kB", "peak MiB"):
        print(f"{key:18}" + "".join(f"{row[key]:12.1f}" for row in rows) + f"{rows[-1][key] / rows[0][key]:8.1f}")


if __name__ == "__main__":
    main()
