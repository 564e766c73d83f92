"""Results as people posted them parse to their expected values, plain, packed, and behind any launcher's prefixes."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrypoints.logs.parse import parse_lines, parse_paths
from entrypoints.results.codec import encode
from entrypoints.results.model import Run
from tests.helpers.originals import ORIGINALS

FOLDER = ORIGINALS / "logs" / "results"
LOGS = sorted(FOLDER.glob("*.log"))


def test_the_logs_are_there() -> None:
    assert LOGS


def holds(expected: Any, parsed: Any) -> bool:
    """Every expected key with its value; lists as long as expected."""
    if isinstance(expected, dict):
        return isinstance(parsed, dict) and all(key in parsed and holds(value, parsed[key]) for key, value in expected.items())
    if isinstance(expected, list):
        return isinstance(parsed, list) and len(expected) == len(parsed) and all(map(holds, expected, parsed))
    return bool(expected == parsed)


def expected_of(log: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(log.with_name(f"{log.stem}.expected.json").read_text())
    expected.pop("source")
    return expected


def check(log: Path, runs: list[Run]) -> None:
    (run,) = encode(runs)
    for key, value in expected_of(log).items():
        assert holds(value, run.get(key)), key


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
def test_plain(log: Path) -> None:
    check(log, parse_paths([log]))


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress], ids=["gzip", "xz", "bzip2"])
def test_packed(log: Path, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    packed = tmp_path / "some.bin"
    packed.write_bytes(pack(log.read_bytes()))
    check(log, parse_paths([packed]))


PREFIXES = {
    "mpirun": "[1,0]<stdout>:",
    "mpirun5": "[1,0]<stdout>: ",
    "kubectl": "[pod/ep-0-0/main] ",
    "kubectl-time": "[pod/ep-0-0/main] 2026-08-19T05:29:34.123456789Z ",
    "srun": " 0: ",
    "time": "2026-11-24 08:59:45,123 ",
    "supervisor": "[rank 0] ",
    "compose": "ep-main-1  | ",
    "torchrun": "[default0]:",
    "colour": "\x1b[32m",
}


@pytest.mark.parametrize("log", LOGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_behind_a_prefix(log: Path, prefix: str, end: str) -> None:
    lines = [f"{prefix}{line}{end}" for line in log.read_text().splitlines()]
    check(log, parse_lines(lines))
    check(log, parse_lines([line.encode() for line in lines]))


def test_utf16_as_powershell_writes_it(tmp_path: Path) -> None:
    log = FOLDER / "p5en-intranode.log"
    path = tmp_path / "power.log"
    path.write_text(log.read_text(), encoding="utf-16")
    check(log, parse_paths([path]))
