"""What goes wrong within a task of ./inv is one line with an exit code; only what nobody foresaw is a traceback."""

from pathlib import Path

import docker
import pytest
import requests
from invoke.exceptions import Exit

from entrypoints.errors import EngineError, UsageError
from images.build import reference
from images.build.image import BuildOptions, build
from images.menu import exit_code


def refused() -> docker.errors.APIError:
    return docker.errors.APIError("400 Client Error", explanation="invalid reference\nformat")


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (UsageError("no", where="--x"), "task: --x: no", 2),
        (EngineError("gone"), "task: gone", 10),
        (KeyboardInterrupt(), "task: interrupted", 130),
        (refused(), "task: the engine refused: invalid reference format", 10),
        (requests.exceptions.ConnectionError("closed"), "task: the engine does not answer: closed; ./inv engine.status", 10),
        (
            OSError(28, "No space left on device", "/d/x"),
            "task: /d/x: No space left on device; name another place, or make this one usable",
            2,
        ),
    ],
)
def test_an_error_is_one_line(error: BaseException, text: str, code: int) -> None:
    with pytest.raises(Exit) as end, exit_code("task"):
        raise error
    assert (end.value.message, end.value.code) == (text, code)


def test_what_nobody_foresaw_stays_what_it_is() -> None:
    for error in (OSError("odd"), ZeroDivisionError()):
        with pytest.raises(type(error)) as end, exit_code("task"):
            raise error
        assert end.value is error


def test_a_real_file_that_cannot_be_made() -> None:
    with pytest.raises(Exit) as end, exit_code("task"):
        Path("/proc/nowhere").mkdir()
    assert end.value.message == "task: /proc/nowhere: No such file or directory; name another place, or make this one usable"


@pytest.mark.parametrize("tag", ["BAD TAG", "x:", "Upper/x:1", "a@sha256:" + "0" * 64])
def test_a_name_that_no_image_can_have_is_refused_before_anything_starts(tag: str) -> None:
    with pytest.raises(UsageError, match=r"--tag: .* is no image name"):
        build(BuildOptions("cpu", tag=tag))


@pytest.mark.parametrize("tag", ["epbox:cpu", "localhost:5000/team/epbox:cpu-1", "ghcr.io/a/b", "epbox-verify:cpu-1"])
def test_names_that_are(tag: str) -> None:
    assert reference.is_tag(tag)
