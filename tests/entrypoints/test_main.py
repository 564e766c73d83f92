"""The verbs' command line: each mistake is one line with exit code 2, and a missing library is one line too."""

import builtins
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from entrypoints.__main__ import VERBS, main
from entrypoints.bench import flow
from entrypoints.results.codec import read_result


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_one_line(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--nope"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"epbox {verb}: ")
    assert err.endswith(f"; epbox {verb} --help tells more\n")
    assert err.count("\n") == 1


def test_a_wrong_value_names_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--ranks", "x"]) == 2
    assert capsys.readouterr().err == "epbox plan: --ranks: invalid int value: 'x'; epbox plan --help tells more\n"


def test_without_psutil_a_verb_that_needs_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def without_psutil(
        name: str,
        names: Mapping[str, object] | None = None,
        more: Mapping[str, object] | None = None,
        wanted: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        if name == "psutil":
            raise ModuleNotFoundError("No module named 'psutil'", name="psutil")
        return real(name, names, more, wanted, level)

    monkeypatch.setattr(builtins, "__import__", without_psutil)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    assert main(["bench", "--workload", "alltoall", "--ranks", "1", "--dry-run"]) == 3
    assert "this Python has no psutil; install it" in capsys.readouterr().err


def test_shell_hands_on_what_stands_behind_the_dashes() -> None:
    words = [sys.executable, "-m", "entrypoints", "shell", "--", "-c", "echo $0 $1; exit 7", "a", "b"]
    done = subprocess.run(words, env={**os.environ, "SHELL": "/bin/sh"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "a b\n")


def test_a_shell_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHELL", "/nowhere/sh")
    assert main(["shell"]) == 2
    assert capsys.readouterr().err.startswith("epbox shell: SHELL=/nowhere/sh: cannot be executed: No such file")


LOG = "tests/data/gpu/alltoall.log"
WRONG = {
    f"results {LOG} --port-gbps -4": "epbox results: --port-gbps -4: give a number above 0",
    f"results {LOG} --ports 0": "epbox results: --ports 0: give a number above 0",
    f"results {LOG} --min-ratio nan": "epbox results: --min-ratio nan: give a number above 0",
    f"results {LOG} --reference nope": "epbox results: --reference: goes with --min-ratio only",
    f"results {LOG} --min-ratio 1 --reference nope": "epbox results: --reference nope: no such reference; one of ",
    f"diagnose {LOG} --facts nowhere": "epbox diagnose: --facts nowhere: no such folder; ",
    "topology --topology tests/data/topology/nccl-dump.xml -o /proc/nowhere/x": "epbox topology: /proc/nowhere/x: cannot be written: ",
}


@pytest.mark.parametrize("line", WRONG)
def test_an_option_that_cannot_be_meant_is_refused_before_any_output(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(WRONG[line])
    assert err.count("\n") == 1


def test_a_result_that_cannot_be_written_is_exit_9(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flow, "write_atomically", full)
    lost = flow.write_result(Path("out/result.json"), read_result(Path("tests/data/gpu/alltoall-ablation.json")))
    assert lost is not None and lost.exit_code == 9
    assert str(lost).startswith("out/result.json: cannot be written: No space left on device; ")
