"""Which tests run: ./inv test --no-container and --no-guest leave whole folders out, with that as the reason."""

import os

import pytest

_SWITCHES = {"container": "EPBOX_TEST_CONTAINER", "guest": "EPBOX_TEST_GUEST"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, variable in _SWITCHES.items():
            if f"/tests/{folder}/" in item.path.as_posix():
                item.add_marker(getattr(pytest.mark, folder))
                if os.environ.get(variable) == "0":
                    item.add_marker(pytest.mark.skip(reason=f"--no-{folder}"))
