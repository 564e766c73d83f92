"""lint: which checks run, and what becomes of one that fails."""

import pytest

from entrypoints.errors import UsageError
from images.build import checks


def test_the_fast_part_leaves_types_and_dockerfiles_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[str] = []
    monkeypatch.setattr(checks, "_tool", lambda name, *words: started.append(name))
    assert checks.lint(fast=True) == 0
    assert started == ["ruff", "ruff", "shellcheck"]
    assert "lint: all 3 checks passed" in capsys.readouterr().err


def test_one_failed_check_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def tool(name: str, *words: str) -> None:
        if words[:1] == ("check",):
            raise UsageError("one line of it")

    monkeypatch.setattr(checks, "_tool", tool)
    assert checks.lint(fast=True) == 1
    said = capsys.readouterr().err
    assert "FAIL  ruff check: one line of it" in said and "ok    shellcheck" in said and said.endswith("lint: ruff check failed\n")
