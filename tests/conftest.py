"""Which tests run: ./inv test --no-container and --no-guest leave whole folders out, with that as the reason."""

import os
import signal

import pytest

_SWITCHES = {"container": "EPBOX_TEST_CONTAINER", "guest": "EPBOX_TEST_GUEST"}
#: tests/cluster runs the cpu image under real schedulers.
_FOLDERS = {"container": "container", "cluster": "container", "guest": "guest"}


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, switch in _FOLDERS.items():
            if f"/tests/{folder}/" in item.path.as_posix():
                item.add_marker(getattr(pytest.mark, switch))
                if os.environ.get(_SWITCHES[switch]) == "0":
                    item.add_marker(pytest.mark.skip(reason=f"--no-{switch}"))
