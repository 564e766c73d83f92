"""Speed and memory of `results` and `diagnose` on large logs: 300 MB in 20 s and 200 MiB, 100 MB in 10 s.

Run: python tests/benchmarks/bench_logs.py [MEGABYTES]. Times are CPU seconds of the child, so that a busy machine does not decide.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREFIX = b"[1,0]<stdout>:"


def tuning(megabytes: int, path: Path, prefix: bytes = b"") -> None:
    """Intranode runs one after the other, nothing but lines that count."""
    sweep = b"".join(prefix + b"[tuning] SMs 24, NVL chunk %d: 294.24 GB/s (NVL), 544.47 us\n" % chunk for chunk in range(4, 33, 2))
    one = prefix + b"[config] num_tokens=4096, hidden=7168, num_topk=8\n"
    one += (prefix + b"[testing] Running with BF16, with top-k (async=False, previous=False) ... passed\n") * 24
    for what in (b"dispatch (FP8)", b"dispatch (BF16)", b"combine"):
        one += sweep + prefix + b"[tuning] Best " + what + b": SMs 24, NVL chunk 6, 320.68 GB/s (NVL), t: 499.58 us\n"
    fill(path, one, megabytes)


def low_latency(megabytes: int, path: Path) -> None:
    one = b"".join(
        b"[rank %d] Dispatch + combine bandwidth: 256.81 GB/s, avg_t=85.85 us, min_t=76.42 us, max_t=106.50 us\n"
        b"[rank %d] Dispatch send/recv time: 27.25 + 7.71 us | Combine send/recv time: 32.48 + 9.45 us\n" % (rank, rank)
        for rank in range(8)
    )
    fill(path, one, megabytes)


def stamped(megabytes: int, path: Path) -> None:
    """The same as two pods print it, in turns, each line with its own time: kubectl logs --prefix --timestamps."""
    tuning(2, path)
    lines = path.read_bytes().splitlines()
    one = b"".join(
        b"[pod/ep-%d/main] 2026-01-02T03:04:%02d.%09dZ %s\n" % (number & 1, number % 60, number * 7919 % 10**9, line)
        for number, line in enumerate(lines)
    )
    fill(path, one, megabytes)


def words(megabytes: int, path: Path) -> None:
    """Lines that are all different and say nothing: none of them can be remembered."""
    source = random.Random(1)
    known = [bytes(source.choice(b"abcdefghijklmnopqrstuvwxyz") for _ in range(source.randrange(2, 10))) for _ in range(5000)]
    with path.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(b"".join(b" ".join(source.choices(known, k=12)) + b"\n" for _ in range((1 << 20) // 78)))


def failing(megabytes: int, path: Path) -> None:
    """NCCL's chatter with changing numbers, and warnings."""
    source = random.Random(1)
    lines = [
        b"n%d:%d:%d [%d] NCCL INFO Channel %02d/0 : 0[0] -> 1[1] via P2P/CUMEM 0x%x\n"
        % (
            source.randrange(9),
            source.randrange(99999),
            source.randrange(99999),
            source.randrange(8),
            source.randrange(32),
            source.getrandbits(48),
        )
        for _ in range(50_000)
    ]
    lines += [b"WARN: device rdmap%ds0 is not supported (expected HCA interface: mlx5). Skipping...\n" % number for number in range(999)]
    fill(path, b"".join(lines), megabytes)


def fill(path: Path, one: bytes, megabytes: int) -> None:
    with path.open("wb") as stream:
        for _ in range((megabytes << 20) // len(one) + 1):
            stream.write(one)


def measure(verb: str, path: Path) -> tuple[float, float]:
    """(CPU seconds, peak MiB so far of all children) of the verb on this log."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "entrypoints", verb, str(path), "--format", "json"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="how long, and in how much memory, results and diagnose read large logs")
    parser.add_argument("megabytes", type=int, nargs="?", default=300, help="size of the largest log (default: 300)")
    megabytes = parser.parse_args().megabytes
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.log"
        cases: tuple[tuple[str, str, Callable[[], None], float, int], ...] = (
            ("results, intranode", "results", lambda: tuning(megabytes, path), 20 * megabytes / 300, 200),
            ("results, behind mpirun", "results", lambda: tuning(megabytes, path, PREFIX), 20 * megabytes / 300, 200),
            ("results, behind kubectl", "results", lambda: stamped(megabytes, path), 20 * megabytes / 300, 200),
            ("results, low latency", "results", lambda: low_latency(megabytes, path), 20 * megabytes / 300, 200),
            ("diagnose, NCCL chatter", "diagnose", lambda: failing(megabytes // 3, path), 10 * megabytes / 300, 200),
            ("diagnose, random words", "diagnose", lambda: words(megabytes // 3, path), 10 * megabytes / 300, 200),
        )
        for name, verb, make, limit_s, limit_mib in cases:
            make()
            seconds, peak = measure(verb, path)
            ok = seconds <= limit_s and peak <= limit_mib
            failed |= not ok
            size = path.stat().st_size >> 20
            verdict = "ok" if ok else "TOO MUCH"
            print(f"{name:24} {size:4} MB  {seconds:6.1f} s of {limit_s:4.1f}  peak {peak:5.0f} MiB of {limit_mib}  {verdict}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
