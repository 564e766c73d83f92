"""verify: equal builds give one digest, others exit 6 with the file's name."""

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from entrypoints.errors import UsageError, WrongNumbers
from images.build import engine, ship, verify
from images.options import BuildOptions
from tests.helpers.fake_image import image

ENGINE = engine.Engine("unix:///nowhere", True, "20.10")


LABELS = {"org.opencontainers.image.revision": "abc", "org.opencontainers.image.created": "2026-01-02T00:00:00Z"}


REMOVED: list[str] = []


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine whose builds hold these contents; what each build was told is returned."""

    def make(*contents: bytes) -> list[tuple[Any, ...]]:
        told: list[tuple[Any, ...]] = []
        rest = iter(contents)
        REMOVED.clear()

        class Client:
            images = SimpleNamespace(remove=lambda name, force: REMOVED.append(name))

        monkeypatch.setattr(engine, "ensure", lambda choice: ENGINE)
        monkeypatch.setattr(engine.Engine, "client", lambda self: Client())
        monkeypatch.setattr(verify, "_build", lambda *words, varied: told.append((*words, varied)))
        monkeypatch.setattr(ship, "export", lambda where, name, path, tag: image(path, {"etc/x": next(rest)}, LABELS))
        return told

    return make


def test_two_equal_builds_give_one_digest(builds: Any) -> None:
    told = builds(b"same\n", b"same\n")
    verdict = verify.verify_recipe("cpu")
    assert re.match(r"sha256:[0-9a-f]{64}\nL2: two builds of cpu are equal .* \(private engine\), lock sha256:", verdict)
    assert [words[-1] for words in told] == [False, True] and told[0][2] != told[1][2]
    assert [(words[0].no_cache, words[0].fresh_base, words[0].locked) for words in told] == [(True, False, True), (True, True, True)]


def test_two_builds_that_differ_name_the_file(builds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    builds(b"same\n", b"other\n")
    with pytest.raises(WrongNumbers, match="layer 0, /etc/x: two builds of cpu differ: content differs"):
        verify.verify_recipe("cpu")
    assert "-same" in capsys.readouterr().err
    assert REMOVED == ["epbox-verify:cpu-1", "epbox-verify:cpu-2"], "nothing stays in the engine"


def test_an_image_is_compared_with_one_new_build_of_its_own_commit_and_time(builds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = builds(b"same\n", b"same\n")
    assert "epbox:mine and a new build of cpu are equal" in verify.verify_recipe("cpu", image="epbox:mine")
    (only,) = told
    assert only[3] == {"EPBOX_REVISION": "abc", "SOURCE_DATE_EPOCH": "1767312000"} and only[-1] is True
    assert "was built from commit abc" in capsys.readouterr().err


def test_sources_reach_the_builds_as_absolute_paths(builds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = builds(b"a", b"a")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    verify.verify_recipe("deepep-v1", source=("deepep=here",))
    assert [words[0].source for words in told] == [[f"deepep={tmp_path}/here"]] * 2
    with pytest.raises(UsageError, match="does not exist"):
        verify.verify_recipe("deepep-v1", source=("deepep=absent",))


def test_what_varies_is_what_this_host_can_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert {"umask", "host name", "CPU count", "clock of this host's programs (+25h)"} <= set(verify.variation())
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not {"host name", "CPU count"} & set(verify.variation()) and not any("clock" in each for each in verify.variation())


def test_the_second_build_runs_in_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build's own process tells what it sees."""
    (tmp_path / "tmp").mkdir()
    seen = tmp_path / "seen"
    probe = "import os, time; print(oct(os.umask(0)), os.environ['TZ'], len(os.sched_getaffinity(0)), int(time.time()), file=open(%r, 'w'))"
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec /usr/bin/env python3 -c "{probe % str(seen)}"\n')
    (tmp_path / "python").chmod(0o755)
    verify._build(BuildOptions("cpu", tag="t"), ENGINE, tmp_path, {}, varied=True)
    umask, zone, cpus, now = seen.read_text().split()
    assert (umask, zone) == ("0o27", "Pacific/Kiritimati")
    if "CPU count" in verify.variation():
        assert cpus == "1"
    if any("clock" in name for name in verify.variation()):
        assert 24 * 3600 < int(now) - time.time() < 26 * 3600
