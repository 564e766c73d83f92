"""Facts have one owner: rights and devices of containers, ports, variables and exit codes stand in entrypoints/facts and nowhere else."""

import re
import subprocess
from pathlib import Path

import pytest

from entrypoints import errors
from entrypoints.errors import MEANINGS, ExitCode, of_signal
from entrypoints.facts import container, variables
from entrypoints.facts.ports import MASTER_PORT

#: Linux capabilities that containers are given now and then (capabilities(7)), with those of the table.
CAPABILITIES = {"SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "NET_ADMIN", "NET_RAW", "DAC_OVERRIDE", "CHOWN", "SETUID", "SETGID", "MKNOD"}
#: A whole name, not the beginning of several (EPBOX_LOCAL_*).
NAME = r"EPBOX_[A-Z0-9_]*[A-Z0-9](?![A-Z0-9_])"
EVERYTHING = {"gpus": True, "rdma": True, "several_nodes": True}


def tree() -> list[Path]:
    """Every text file of the checkout that is no test, picture or generated list."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True, check=True)
    files = [Path(name) for name in listed.stdout.splitlines()]
    left_out = ("tests", "requirements")
    return [path for path in files if path.is_file() and path.parts[0] not in left_out and path.suffix not in (".png", ".svg", ".json")]


def sources() -> list[Path]:
    """Python and templates outside of facts."""
    kinds = (".py", ".j2", ".sh", ".yaml")
    return [path for path in tree() if path.suffix in kinds and path.parts[:2] != ("entrypoints", "facts")]


def lines_with(pattern: str, files: list[Path]) -> list[str]:
    found = re.compile(pattern)
    return [f"{path}:{number}: {line}" for path in files for number, line in enumerate(read(path), 1) if found.search(line)]


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


# Containers


def test_a_right_or_device_stands_in_the_table_alone() -> None:
    rows = container.table().values()
    names = {*CAPABILITIES, *container.values(rows, "capability")}
    devices = [re.escape(value) for value in container.values(rows, "device")]
    pattern = rf"\b(CAP_)?({'|'.join(sorted(names))})\b|{'|'.join(devices)}"
    assert lines_with(pattern, sources()) == [], "ask entrypoints/facts/container.py"


def test_the_default_is_what_each_need_says() -> None:
    given = {row.value for row in container.needed(**EVERYTHING)}
    assert {row.value for row in container.table().values() if row.needed_by} == given
    bare = container.needed(gpus=False, rdma=False, several_nodes=False)
    assert {row.needed_by for row in bare} == {("every",)}
    assert "privileged" not in " ".join(row.docker for row in container.needed(**EVERYTHING))


def test_over_nodes_without_rdma_the_host_network_is_still_needed() -> None:
    rows = container.needed(gpus=False, rdma=False, several_nodes=True)
    assert "--network=host" in [row.docker for row in rows]
    assert "memlock" not in [row.name for row in rows]


def test_rootless_podman_takes_the_hosts_limits_and_what_the_kernel_grants_it() -> None:
    assert container.podman(container.needed(**EVERYTHING)) == ["--network=host", "--ulimit=host", "--cap-add=SYS_NICE", "--ipc=host"]


def test_capability_numbers_are_the_kernels() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip("no kernel headers: install linux-libc-dev")
    numbers = dict(re.findall(r"#define CAP_(\w+)\s+(\d+)", header.read_text()))
    rows = [row for row in container.table().values() if row.kind == "capability"]
    assert {row.value: row.number for row in rows} == {row.value: int(numbers[row.value]) for row in rows}


def test_the_docs_tell_of_every_need() -> None:
    page = Path("docs/host-setup.md").read_text()
    rows = [row for row in container.needed(**EVERYTHING) if row.kind != "mount"]
    assert [row.name for row in rows if row.value not in page or row.docker.split()[0].partition("=")[0] not in page] == []


# Ports, variables, exit codes


def test_a_port_stands_in_facts_alone() -> None:
    assert lines_with(rf"\b({MASTER_PORT}|{MASTER_PORT + 1})\b", sources()) == [], "ask entrypoints/facts/ports.py"


def test_every_variable_is_in_the_table_and_each_row_is_used() -> None:
    own = ("variables.toml", "variables.md")
    used = {name for path in tree() if path.name not in own for line in read(path) for name in re.findall(NAME, line)}
    table = {row.name for row in variables.table()}
    assert used - table == set(), "entrypoints/facts/variables.toml lacks them"
    assert table - used == set(), "nothing uses them any more"


def test_the_docs_list_the_public_variables() -> None:
    assert Path("docs/variables.md").read_text().endswith("\n\n" + variables.to_markdown())


def test_every_exit_code_has_a_meaning_and_readmes_table_is_theirs() -> None:
    assert set(MEANINGS) == set(ExitCode)
    section = Path("README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section.replace("`", ""), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == MEANINGS


def test_there_is_one_error_class_a_code() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.EPBoxError)]
    codes = sorted(each.exit_code for each in classes if each is not errors.EPBoxError)
    assert codes == sorted(set(ExitCode) - {ExitCode.OK, ExitCode.INTERRUPTED})
    assert of_signal(15) == 143
