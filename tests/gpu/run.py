r"""Everything that needs a GPU, in one call: build or take DeepEP, snapshot the host, run all cases, check them, one table.

    python3 tests/gpu/run.py --out DIR --v1 DEEPEP_V1 [--v1-wheel WHEEL] \
        [--v2 DEEPEP_V2 [--v2-wheel WHEEL] --nccl LIBRARY --nccl-headers TARBALL [--fmt TREE]]

Needs torch with CUDA, psutil and, to build, nvcc. Settings of the GPU are never touched. Exit 0: every case as expected.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from entrypoints.output import table  # noqa: E402

if TYPE_CHECKING:
    from tests.gpu import build, cases
    from tests.gpu.cases import Case
else:
    # By their own folder: where torch is, "tests" may be another package.
    import build
    import cases
    from cases import Case

LAUNCHER = Path(__file__).with_name("launch_shared.py")


@dataclass
class Result:
    """`wrong` has a sentence for each expectation that was missed; empty means passed."""

    name: str
    exit_code: int
    seconds: float
    expect: int | None = None
    finding: str | None = None
    note: str = ""
    wrong: list[str] = field(default_factory=list)


def epbox(words: list[str], env: dict[str, str] | None = None, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """python -m entrypoints WORDS; 124 when it ran past its time."""
    return call([sys.executable, "-m", "entrypoints", *words], env or {}, timeout)


def call(argv: list[str], env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    every = {**os.environ, "NO_COLOR": "1", **env}
    process = subprocess.Popen(argv, env=every, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.terminate()  # EPBox ends its ranks on TERM
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        code = 124
    return subprocess.CompletedProcess(argv, code, out, err)


def read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document


def run_case(case: Case, libraries: dict[str, build.Library], out: Path) -> Result:
    """One case in a folder of its own."""
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    library = libraries.get(case.library or "", build.Library())
    env = {**library.env, **case.env}
    words = list(case.words)
    start = time.monotonic()
    if case.kind == cases.BENCH:
        tree = ["--deepep-path", str(library.tree)] if library.tree else []
        done = epbox(["bench", "--out", str(folder), *tree, *words], env, case.timeout_s)
    else:
        test = next(i for i, word in enumerate(words) if word.endswith(".py"))
        words[test] = str(library.tree / "tests" / words[test]) if library.tree else words[test]
        done = call([sys.executable, str(LAUNCHER), "--out", str(folder), *words], env, case.timeout_s)
    result = Result(case.name, done.returncode, time.monotonic() - start, case.expect)
    (folder / "console.txt").write_text(done.stdout + done.stderr)
    check(case, folder, done.stdout + done.stderr, result)
    return result


def check(case: Case, folder: Path, console: str, result: Result) -> None:
    """Exit code; plan against evidence and parsed results where it ran; the named cause where it failed."""
    if case.expect is not None and result.exit_code != case.expect:
        result.wrong.append(f"exit {result.exit_code}, expected {case.expect}")
    if case.says is not None and case.says not in console:
        result.wrong.append(f"does not say {case.says!r}")
    if result.exit_code == 0:
        if case.kind == cases.BENCH:
            check_bench(folder, case.partial, result)
        else:
            check_shared(folder, result)
    elif list(folder.glob("**/rank-*.log")):
        found = read_findings(folder)
        fatal = [each["cause_id"] for each in found if each["severity"] == "fatal"]
        result.finding = fatal[0] if fatal else None
        named = read(folder / "result.json").get("verdict") or read(folder / "outcome.json").get("cause") or ""
        result.note = named
        if not named:
            result.wrong.append("no cause is named")
    if case.finding is not None and result.finding != case.finding:
        result.wrong.append(f"diagnosed {result.finding}, expected {case.finding}")


def read_findings(folder: Path) -> list[dict[str, Any]]:
    done = epbox(["diagnose", str(folder), "--format", "json"])
    (folder / "diagnosis.json").write_text(done.stdout)
    return list(read(folder / "diagnosis.json").get("findings", ()))


def check_bench(folder: Path, partial: bool, result: Result) -> None:
    whole = read(folder / "result.json")
    result.note = str(whole.get("verdict", ""))
    if whole.get("status") != "ok" or not whole.get("runs"):
        result.wrong.append("no parsed result")
    if any(run.get("complete") is partial for run in whole.get("runs", ())):
        result.wrong.append("a run is said to be complete, and is not" if partial else "a run is not complete")
    for node in whole.get("nodes", ()):
        on_plan(node["plan"]["ranks"], [rank["evidence"] for rank in node["ranks"]], result)


def check_shared(folder: Path, result: Result) -> None:
    whole = read(folder / "outcome.json")
    result.note = whole.get("verdict", {}).get("text", "")
    if not whole.get("verdict", {}).get("ok"):
        result.wrong.append("not on plan")
    on_plan(whole["plan"]["ranks"], [rank["evidence"] for rank in whole["ranks"]], result)


def on_plan(plans: list[dict[str, Any]], evidence: list[dict[str, Any]], result: Result) -> None:
    """The kernel's word of the running rank, against the plan."""
    for plan, seen in zip(plans, evidence, strict=True):
        if seen.get("cpus") != plan["cpus"] or seen.get("degradations"):
            result.wrong.append(f"rank {plan['local_rank']} ran on {seen.get('cpus')}, planned {plan['cpus']}")


def host(out: Path) -> list[Result]:
    """snapshot and its replay, plan from both, doctor with probes, exec."""
    out.mkdir(parents=True, exist_ok=True)
    found = []

    def verb(name: str, words: list[str], expect: int, says: str = "") -> str:
        start = time.monotonic()
        done = epbox(words)
        (out / f"{name}.txt").write_text(done.stderr)
        (out / f"{name}.json").write_text(done.stdout)
        result = Result(name, done.returncode, time.monotonic() - start, expect, note=done.stderr.strip().rpartition("\n")[2])
        if done.returncode != expect:
            result.wrong.append(f"exit {done.returncode}, expected {expect}")
        if says not in done.stdout:
            result.wrong.append(f"does not say {says!r}")
        found.append(result)
        return done.stdout

    snapshot = str(out / "snapshot.tar.gz")
    verb("snapshot", ["snapshot", snapshot, "--format", "json"], 0, '"replays": true')
    live = verb("plan-live", ["plan", "--format", "json"], 0)
    replayed = verb("plan-replayed", ["plan", "--topology", snapshot, "--format", "json"], 0)
    if live and replayed and json.loads(live)["ranks"] != json.loads(replayed)["ranks"]:
        found[-1].wrong.append("plans differ")
    verb("topology", ["topology", "--format", "json"], 0)
    # Without an HCA there is no DeepEP over nodes, and doctor must say so.
    hcas = json.loads((out / "topology.json").read_text() or "{}").get("hcas")
    verb("doctor-probe", ["doctor", "--probe", "--format", "json"], 0 if hcas else 3)
    verb("doctor-alltoall", ["doctor", "--for", "alltoall", "--format", "json"], 0)
    verb("exec", ["exec", "--", sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"], 0, "NVIDIA")
    return found


def libraries(args: argparse.Namespace, work: Path) -> dict[str, build.Library]:
    found = {}
    if args.v1:
        found["v1"] = build.v1(args.v1, args.v1_wheel, work)
    if args.v2:
        found["v2"] = build.v2(args.v2, args.v2_wheel, build.nccl_root(args.nccl, args.nccl_headers, work), args.fmt, work)
    for name, library in found.items():
        print(f"DeepEP {name}: {'built' if library.built else 'wheel installed'} in {library.seconds:.0f} s", flush=True)
    return found


def show(results: list[Result]) -> str:
    rows = [
        (r.name, "-" if r.expect is None else r.expect, r.exit_code, r.finding or "-", f"{r.seconds:.1f}", "; ".join(r.wrong) or "ok")
        for r in results
    ]
    return table(("case", "expected", "exit", "diagnosed", "s", "verdict"), rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("v1", "v1-wheel", "v2", "v2-wheel", "nccl", "nccl-headers", "fmt"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/epbox-gpu"))
    parser.add_argument("--only", default="*", metavar="GLOB", help="cases to run")
    parser.add_argument("--no-host", action="store_true", help="leave snapshot, doctor and exec out")
    args = parser.parse_args()
    import torch

    gpus = torch.cuda.device_count()
    print(f"{gpus} x {torch.cuda.get_device_name()}, torch {torch.__version__}, NCCL {torch.cuda.nccl.version()}", flush=True)
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    there = libraries(args, args.work)
    results = [] if args.no_host else host(args.out / "host")

    def go(case: Case) -> None:
        if (case.library is None or case.library in there) and fnmatch(case.name, args.only):
            results.append(run_case(case, there, args.out))
            last = results[-1]
            print(f"{last.name}: exit {last.exit_code}, {last.seconds:.1f} s, {'; '.join(last.wrong) or 'ok'}", flush=True)
            save(results, args.out)

    for case in (*cases.first(gpus), *cases.several(gpus)):
        go(case)
    cold, warm = cases.elastic()
    # The cold run compiles for minutes on the CPUs; what is not timed can run beside it.
    with ThreadPoolExecutor(1) as beside:
        compiling: Future[None] = beside.submit(go, cold)
        for case in (*cases.one_card(), *cases.negative()):
            go(case)
        compiling.result()
    kernels = build.compiled(args.work)
    (args.out / "jit.json").write_text(json.dumps(kernels, indent=2) + "\n")
    go(warm)
    print(show(results))
    return int(any(result.wrong for result in results))


def save(results: list[Result], out: Path) -> None:
    (out / "summary.json").write_text(json.dumps([vars(result) for result in results], indent=2) + "\n")
    (out / "summary.txt").write_text(show(results) + "\n")


if __name__ == "__main__":
    sys.exit(main())
