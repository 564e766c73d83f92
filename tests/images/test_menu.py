"""What goes wrong within a task of ./inv is one line with an exit code; only what nobody foresaw is a traceback."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.program import Program

from entrypoints.errors import EngineError, UsageError
from images.build import reference
from images.build.image import build
from images.menu import OptionsTask, exit_code
from images.options import BuildOptions, comma_separated, option


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
    with pytest.raises(UsageError, match=r"--tag: not an image name: "):
        build(BuildOptions("cpu", tag=tag))


@pytest.mark.parametrize("tag", ["epbox:cpu", "localhost:5000/team/epbox:cpu-1", "ghcr.io/a/b", "epbox-verify:cpu-1"])
def test_names_that_are(tag: str) -> None:
    assert reference.is_tag(tag)


@dataclass(frozen=True)
class Options:
    """One option of each kind."""

    nodes: int = option(2, "how many")
    ranks: int | None = option(None, "ranks (default: one a GPU)", kind=int)
    hosts: tuple[str, ...] = option((), "names", parse=comma_separated)
    image: str | None = option(None, "image")
    gate: bool = option(True, "doctor first")
    host_network: bool | None = option(None, "network of the host", kind=bool)
    source: tuple[str, ...] = option((), "repeatable", kind=list)
    arguments: tuple[str, ...] = option((), "more", name="args")
    port: int = 9000


def chosen(*line: str) -> Options:
    """What the task's body gets for a command line."""
    got: list[Options] = []
    menu = Collection(OptionsTask("go", "Go.", Options, got.append))
    Program(namespace=menu).run(["inv", "go", *line], exit=False)
    return got[0]


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("", {}),
        ("--nodes 0 --ranks 3", {"nodes": 0, "ranks": 3}),
        ("--hosts a,,b --image x", {"hosts": ("a", "b"), "image": "x"}),
        ("--no-gate --host-network", {"gate": False, "host_network": True}),
        ("--image= --ranks 0", {"ranks": 0}),
        ("--source a=1 --source b=2", {"source": ("a=1", "b=2")}),
        ("--args=--runs\\ 3 -- --x y", {"arguments": ("--runs", "3", "--x", "y")}),
    ],
)
def test_a_command_line_is_a_dataclass(line: str, change: dict[str, Any]) -> None:
    assert chosen(*shlex.split(line)) == replace(Options(), **change)


def test_help_tells_the_default_where_the_text_does_not() -> None:
    arguments = {argument.name: argument for argument in OptionsTask("go", "Go.", Options, print).get_arguments()}
    assert list(arguments) == ["nodes", "ranks", "hosts", "image", "gate", "host_network", "source", "args"], "a plain field is no option"
    assert arguments["nodes"].help == "how many (default: 2)"
    assert arguments["ranks"].help == "ranks (default: one a GPU)"
    assert (arguments["ranks"].kind, arguments["hosts"].kind, arguments["gate"].kind) == (int, str, bool)


def test_the_bodys_code_and_errors_are_the_tasks() -> None:
    def refuse(options: Options) -> None:
        raise UsageError("no", where="--x")

    def fail(options: Options) -> int:
        return 7

    bodies: tuple[tuple[Callable[[Options], int | None], int, str | None], ...] = ((fail, 7, None), (refuse, 2, "part.go: --x: no"))
    for body, code, message in bodies:
        task = OptionsTask("part.go", "Go.", Options, body)
        with pytest.raises(Exit) as end:
            task(Context(), **dict.fromkeys(task.fields))
        assert (end.value.code, end.value.message) == (code, message)
