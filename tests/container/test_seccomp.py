"""The shipped seccomp profile opens the memory policy calls without any capability, and nothing that the runtime's own keeps shut."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

PROFILE = Path(__file__).parents[2] / "templates" / "kubernetes" / "epbox-seccomp.json"
pytestmark = pytest.mark.container
#: x86-64 numbers and arguments; each prints its errno, 0 when it went through.
PROBE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = dict(get_mempolicy=(239, 0, 0, 0, 0, 0), set_mempolicy=(238, 0, 0, 0), unshare=(272, 0x10000000), keyctl=(250, 0, -3, 0),
             bpf=(321, 0, 0, 0), ptrace=(101, 0, 0, 0, 0), mount=(165, 0, 0, 0, 0, 0), kexec_load=(246, 0, 0, 0, 0), setns=(308, -1, 0))
for name, arguments in calls.items():
    ctypes.set_errno(0)
    libc.syscall(*arguments)
    print(name, ctypes.get_errno())
"""


def test_memory_policy_is_allowed_and_the_rest_is_not(run: Callable[..., tuple[int, str]]) -> None:
    options = [f"seccomp={json.dumps(json.loads(PROFILE.read_text()))}"]
    code, output = run("python3", "-c", PROBE, security_opt=options, cap_drop=["ALL"])
    errors = {line.split()[0]: int(line.split()[1]) for line in output.splitlines() if len(line.split()) == 2}
    assert code == 0 and errors["get_mempolicy"] == errors["set_mempolicy"] == 0, output
    assert {name: value for name, value in errors.items() if "mempolicy" not in name and value != 1} == {}, output


def test_a_bench_runs_under_it_and_binds_memory(run: Callable[..., tuple[int, str]]) -> None:
    options = [f"seccomp={json.dumps(json.loads(PROFILE.read_text()))}"]
    command = ("exec", "--strict", "--bind", "mem", "--ranks", "2", "--workload", "alltoall", "--", "true")
    code, output = run(*command, security_opt=options, cap_drop=["ALL"])
    assert code == 0, output
