"""Which tests run, in which process, and what ends with them.

`./inv test` says by environment variables what to leave out (EPBOX_TEST_CONTAINER=0, EPBOX_TEST_GUEST=0). What is left out is not
collected, so that a skip always means something that this machine lacks.
"""

import os
import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.helpers import cpu_image, originals, torch_python

HERE = Path(__file__).parent
_SWITCHES = {"container": "EPBOX_TEST_CONTAINER", "guest": "EPBOX_TEST_GUEST"}
#: What the tests of a folder need. tests/cluster runs the cpu image under real schedulers.
_FOLDERS = {"guest": "guest", "cluster": "container", "container": "container", "gpu_images": "container"}

left_out = {need for need, switch in _SWITCHES.items() if os.environ.get(switch) == "0"}
collect_ignore = [folder for folder, need in _FOLDERS.items() if need in left_out]
if originals.named() is None:
    collect_ignore.append("originals")

# How long an example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("epbox", deadline=None)
hypothesis.settings.load_profile("epbox")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would every program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(cpu_image.SESSION, str(os.getpid()))
    folder = originals.named()
    if folder is not None and not folder.is_dir():
        raise pytest.UsageError(f"{originals.VARIABLE}={folder}: no such folder; name the one with the posted files, or unset it")


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
    """Deals the tests to xdist's processes by file, in the order of their collection. A folder whose tests share an engine, a
    scheduler's daemons or the cores for guests stays in one process. (xdist's own groups are lost with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((f"tests/{folder}" for folder in _FOLDERS if path.startswith(f"tests/{folder}/")), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    config.option.loadscopereorder = False
    return ByFolder(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, drop what is left out, and put what takes long first where tests are dealt to processes."""
    needs_image = any(item.get_closest_marker("torch") for item in items) and torch_python.on_this_host() is None
    dropped = []
    for item in items:
        folder = _folder(item)
        if folder in _FOLDERS:
            item.add_marker(getattr(pytest.mark, _FOLDERS[folder]))
        elif needs_image and item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.container)
        # Also what the command line names by its path, which pytest collects whatever collect_ignore says.
        if folder in collect_ignore or any(item.get_closest_marker(need) for need in left_out):
            dropped.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    if hasattr(config, "workerinput"):
        # In the table's order: begun last, a long folder would keep a single process busy while the others have ended.
        order = {folder: number for number, folder in enumerate(_FOLDERS)}
        items.sort(key=lambda item: order.get(_folder(item), len(order)))


def _folder(item: pytest.Item) -> str:
    """The folder of tests/ that the test is below."""
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what was started for the tests of this process, and the engine with the last of them: xdist's workers share it."""
    torch_python.close()
    if not hasattr(session.config, "workerinput"):
        cpu_image.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for need in sorted(left_out):
        also = ", and those that need torch, which this host lacks" if need == "container" and torch_python.on_this_host() is None else ""
        terminalreporter.write_line(f"--no-{need}: tests that need a {need} were not collected{also}")
