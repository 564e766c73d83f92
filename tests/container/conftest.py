"""The engine and the images that container tests share; a private engine is started where none answers, and stopped only then."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from entrypoints.errors import EPBoxError
from images import build as builder
from images import engine as engines
from images import private_engine

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def engine() -> Iterator[engines.Engine]:
    """A daemon that answers; the session ends a private one only if it started it."""
    running = private_engine.daemon_pid() is not None
    try:
        found = engines.ensure()
    except EPBoxError as error:
        pytest.skip(str(error))
    yield found
    if found.private and not running:
        private_engine.stop()


@pytest.fixture(scope="session")
def cpu(engine: engines.Engine) -> builder.Image:
    """The cpu image, built now (warm: seconds)."""
    return builder.build(builder.BuildOptions("cpu", tag="epbox-test:cpu"))


@pytest.fixture
def start(cpu: builder.Image) -> Iterator[Callable[..., Any]]:
    """Start a detached container of the cpu image; whatever is left of it goes when the test ends."""
    client = cpu.engine.client()
    started = []

    def begin(*command: str, **options: Any) -> Any:
        name = f"epbox-test-{secrets.token_hex(4)}"
        container = client.containers.run(cpu.id, list(command), name=name, detach=True, network_mode="host", **options)
        started.append(container)
        return container

    yield begin
    for container in started:
        container.remove(force=True)
    client.close()


@pytest.fixture
def run(start: Callable[..., Any]) -> Run:
    """Run a command to its end: its exit code and what it printed."""

    def finish(*command: str, timeout: float = 120, **options: Any) -> tuple[int, str]:
        container = start(*command, **options)
        code = container.wait(timeout=timeout)["StatusCode"]
        return code, container.logs().decode(errors="replace")

    return finish
