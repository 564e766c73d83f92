"""Calling a program: its output, or one line that says how it failed."""

import sys
from pathlib import Path

import pytest

from entrypoints.errors import EngineError
from images.command import CommandFailed, call, probe, run


def shell(line: str) -> list[str]:
    return ["sh", "-c", line]


def test_run_returns_what_was_printed_and_gives_nothing_to_read(tmp_path: Path) -> None:
    assert run(shell("cat; pwd; echo $X"), cwd=tmp_path, env={"X": "1", "PATH": "/usr/bin:/bin"}) == f"{tmp_path}\n1\n"
    assert run(shell("umask"), umask=0o027).strip().endswith("027")
    assert run([sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'a\xff')"]) == "a\ufffd"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("echo one; echo two >&2; echo three >&2; exit 3", "here: sh failed: two | three; do that"),
        ("echo only here; exit 3", "here: sh failed: only here; do that"),
        ("exit 3", "here: sh failed: exit code 3; do that"),
        ("kill -9 $$", "here: sh failed: exit code -9; do that"),
    ],
)
def test_a_failure_is_one_line_with_the_program_s_last_words(line: str, words: str) -> None:
    with pytest.raises(EngineError) as caught:
        run(shell(line), where="here", hint="do that")
    assert str(caught.value) == words and caught.value.exit_code == 10


def test_the_error_has_all_that_was_printed() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(shell("seq 1 9; echo end >&2; exit 1"))
    assert caught.value.output == "".join(f"{number}\n" for number in range(1, 10)) + "end\n"


def test_absent_unusable_and_slow_programs_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"^no-such-program is not installed; get it$"):
        run(["no-such-program"], hint="get it")
    (tmp_path / "tool").touch()
    with pytest.raises(CommandFailed, match=r"^tool cannot be started: Permission denied$"):
        run([str(tmp_path / "tool")])
    with pytest.raises(CommandFailed, match=r"^sleep did not end within 0\.1 s$"):
        run(["sleep", "60"], timeout_s=0.1)


def test_accepted_exit_codes_are_success() -> None:
    assert run(shell("echo differs; exit 1"), accept=(0, 1)) == "differs\n"


def test_output_may_go_elsewhere(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        assert run(shell("echo shown"), stdout=log) == ""
    assert (tmp_path / "log").read_text() == "shown\n"


def test_probe_is_none_where_nothing_answers() -> None:
    assert probe(shell("echo yes")) == "yes\n" and probe(shell("true")) == ""
    assert probe(shell("exit 1")) is None and probe(["no-such-program"]) is None and probe(["sleep", "60"], timeout_s=0.1) is None


def test_call_lets_a_program_print_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert call(shell("echo out; echo err >&2; exit 7")) == 7
    assert capfd.readouterr() == ("out\n", "err\n")
