"""What a pod leaves for Kubernetes: its result in one line, and its verdict or error as the termination message."""

import json
from pathlib import Path

import pytest

from entrypoints import output
from entrypoints.__main__ import run_verb
from entrypoints.errors import UsageError
from tests.helpers.bench_process import SMALL, bench, document


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    monkeypatch.setattr(output, "TERMINATION_LOG", path)
    return path


def test_only_a_file_that_a_kubelet_made_is_written(log: Path) -> None:
    output.leave_message("OK: all right")
    assert not log.exists()
    log.touch()
    output.leave_message("OK: all right")
    assert log.read_text() == "OK: all right"


def test_a_long_message_is_cut_between_characters(log: Path) -> None:
    log.touch()
    output.leave_message("x" + "é" * 4000)
    assert len(log.read_bytes()) == 4095
    assert log.read_text(encoding="utf-8").endswith("é")


def test_an_error_before_the_ranks_is_the_termination_message(log: Path) -> None:
    log.touch()
    with pytest.raises(UsageError):
        run_verb("bench", ["--workload", "nonsense"])
    assert log.read_text().startswith("epbox bench: ")
    assert "nonsense" in log.read_text()


@pytest.mark.torch
def test_a_result_in_one_line_is_the_result_in_the_folder(tmp_path: Path) -> None:
    code, out, err = bench("--ranks", "1", *SMALL, "--out", "res", "--format", "jsonl", cwd=tmp_path)
    assert code == 0, err
    assert out.count("\n") == 1
    assert json.loads(out) == document(tmp_path / "res" / "result.json")
