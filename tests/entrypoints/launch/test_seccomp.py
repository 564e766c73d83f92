"""A real seccomp filter that refuses the memory policy calls, as Docker's default profile does without CAP_SYS_NICE."""

import platform
import sys

import pytest

from entrypoints.binding import CALL_NUMBERS
from tests.helpers.supervised import Supervised

#: Installs the filter (classic BPF: load the call number, compare, answer ERRNO|EPERM or ALLOW), then becomes its arguments.
FILTERED = """
import ctypes, os, struct, sys
calls = [int(text) for text in sys.argv[1].split(",")]
program = [struct.pack("HBBI", 0x20, 0, 0, 0)]
for i, call in enumerate(calls):
    program.append(struct.pack("HBBI", 0x15, len(calls) - i, 0, call))
program += [struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000), struct.pack("HBBI", 0x06, 0, 0, 0x00050001)]
code = ctypes.create_string_buffer(b"".join(program))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(len(program), ctypes.addressof(code))), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[2], sys.argv[2:])
"""

LOOK = (
    "print(open('/proc/self/status').read().split('Cpus_allowed_list:')[1].split()[0], open('/proc/self/numa_maps').readline().split()[1])"
)


def filtered(*arguments: str) -> list[str]:
    calls = ",".join(map(str, CALL_NUMBERS[platform.machine()]))
    return [
        sys.executable,
        "-c",
        FILTERED,
        calls,
        sys.executable,
        "-m",
        "entrypoints",
        "exec",
        *arguments,
        "--",
        sys.executable,
        "-c",
        LOOK,
    ]


@pytest.mark.skipif(platform.machine() not in CALL_NUMBERS, reason="no call numbers for this machine")
@pytest.mark.parametrize("supervise", [False, True])
def test_a_refused_memory_policy_is_said_once_and_the_run_goes_on(supervised: Supervised, supervise: bool) -> None:
    ranks = ["--ranks", "2"] if supervise else []
    result = supervised.finish(supervised.popen(filtered(*ranks)))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("refused (EPERM)") == 1 and "CAP_SYS_NICE" in result.stderr and "first touch" in result.stderr
    assert all(line.endswith(" default") for line in result.stdout.splitlines())
    if supervise:
        assert "ranks 0-1: memory policy" in result.stderr


@pytest.mark.skipif(platform.machine() not in CALL_NUMBERS, reason="no call numbers for this machine")
@pytest.mark.parametrize("supervise", [False, True])
def test_strict_refuses_and_without_mem_nothing_is_missed(supervised: Supervised, supervise: bool) -> None:
    ranks = ["--ranks", "2"] if supervise else []
    strict = supervised.finish(supervised.popen(filtered("--strict", *ranks)))
    assert strict.exit_code == 3 and "refused (EPERM)" in strict.stderr and strict.stdout == ""
    cpu = supervised.finish(supervised.popen(filtered("--strict", "--bind", "nic,cpu", *ranks)))
    assert cpu.exit_code == 0 and "EPERM" not in cpu.stderr
