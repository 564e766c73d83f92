"""The engine and the image that container tests share, and containers that end with their test."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from entrypoints.errors import EPBoxError
from images.build import engine as engines
from images.build import image as builder
from tests.helpers import cpu_image

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def engine() -> engines.Engine:
    """A daemon that answers; skips where there is none and none can be started."""
    try:
        return cpu_image.engine()
    except EPBoxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cpu(engine: engines.Engine) -> builder.Image:
    """The cpu image, built now (warm: seconds)."""
    return cpu_image.build()


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
