"""Binding: real system calls on this host, and every refusal played by an injected kernel."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.binding import CALL_NUMBERS, MODES, BindMode, Kernel, bind
from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.placement.model import MemoryPolicy

ROOT = Path(__file__).parents[2]
CPU = min(os.sched_getaffinity(0))
NODE_0 = MemoryPolicy("preferred", (0,))


class Played(Kernel):
    """A kernel with 8 CPUs and 2 nodes of which the cpuset leaves some, and with calls that can be refused."""

    def __init__(self, cpus: Collection[int] = range(8), mems: Collection[int] = (0, 1), **errors: int) -> None:
        super().__init__()
        self.cpuset, self.mems, self.errors = set(cpus), tuple(mems), errors
        self.affinity = set(cpus)
        self.policy: tuple[int, tuple[int, ...]] = (0, ())
        self.calls: list[str] = []

    def get_affinity(self) -> tuple[int, ...]:
        return tuple(sorted(self.affinity))

    def set_affinity(self, cpus: Collection[int]) -> None:
        self.calls.append("affinity")
        if "affinity" in self.errors:
            raise OSError(self.errors["affinity"], os.strerror(self.errors["affinity"]))
        if not self.cpuset & set(cpus):
            raise OSError(errno.EINVAL, "Invalid argument")
        self.affinity = self.cpuset & set(cpus)

    def set_policy(self, mode: int, nodes: Collection[int]) -> int:
        self.calls.append("policy")
        if "set" in self.errors:
            return -self.errors["set"]
        if mode != 0 and not set(nodes) & set(self.mems) and nodes:
            return -errno.EINVAL
        self.policy = (mode, tuple(sorted(nodes)))
        return 0

    def get_policy(self) -> tuple[int, tuple[int, ...]]:
        return (-self.errors["get"], ()) if "get" in self.errors else self.policy

    def mems_allowed(self) -> tuple[int, ...] | None:
        return self.mems


def in_a_child(code: str) -> Any:
    """Run in another process: a binding cannot be undone in a process that wants its own back."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(result.stdout)


REAL = """
import json, os, threading
from entrypoints.binding import *
from entrypoints.placement.model import MemoryPolicy
report = bind({cpus}, {memory}, BindMode(), {strict})
seen = dict(report=report.to_json(), affinity=sorted(os.sched_getaffinity(0)))
def thread(): seen["thread"] = [sorted(os.sched_getaffinity(0)), Kernel().get_policy()]
one = threading.Thread(target=thread); one.start(); one.join()
with open("/proc/self/status") as status: seen["status"] = [line.split()[1] for line in status if line.startswith("Cpus_allowed_list")][0]
with open("/proc/self/numa_maps") as maps: seen["numa_maps"] = maps.readline().split()[1]
print(json.dumps(seen))
"""


def has_policies() -> bool:
    return Kernel().get_policy()[0] >= 0


@pytest.mark.skipif(not has_policies(), reason="get_mempolicy is refused: a container needs CAP_SYS_NICE, a kernel CONFIG_NUMA")
def test_the_kernel_confirms_what_was_bound() -> None:
    seen = in_a_child(REAL.format(cpus=(CPU,), memory='MemoryPolicy("preferred", (0,))', strict=True))
    assert seen["report"]["degradations"] == []
    assert seen["affinity"] == [CPU] and seen["status"] == str(CPU)
    assert seen["report"]["memory"] == {"policy": "preferred", "nodes": [0]}
    assert seen["thread"] == [[CPU], [MODES["preferred"], [0]]], "threads inherit it"
    assert seen["numa_maps"] == "prefer:0", "and numa_maps, which this project does not write, agrees"


@pytest.mark.skipif(not has_policies(), reason="get_mempolicy is refused: a container needs CAP_SYS_NICE, a kernel CONFIG_NUMA")
@pytest.mark.parametrize(
    ("policy", "shown"), [("bind", "bind:0"), ("interleave", "interleave:0"), ("local", "local"), ("default", "default")]
)
def test_every_policy_is_real(policy: str, shown: str) -> None:
    nodes = () if policy in ("local", "default") else (0,)
    seen = in_a_child(REAL.format(cpus=(CPU,), memory=f"MemoryPolicy({policy!r}, {nodes})", strict=True))
    assert seen["numa_maps"] == shown


def test_the_binding_outlives_exec_and_reaches_grandchildren() -> None:
    code = REAL.format(cpus=(CPU,), memory='MemoryPolicy("preferred", (0,))', strict=False).rpartition("print")[0]
    code += "os.execv('/bin/sh', ['sh', '-c', 'cat /proc/self/status | grep Cpus_allowed_list; true'])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["Cpus_allowed_list:", str(CPU)]


@pytest.mark.skipif(not has_policies(), reason="get_mempolicy is refused: a container needs CAP_SYS_NICE, a kernel CONFIG_NUMA")
def test_a_node_that_does_not_exist_is_told_from_the_real_kernel() -> None:
    seen = in_a_child(REAL.format(cpus=(CPU, 4000), memory='MemoryPolicy("preferred", (1000,))', strict=False))
    affinity, memory = seen["report"]["degradations"]
    assert "4000 missing" in affinity and "node 1000 is not in Mems_allowed" in memory
    assert seen["affinity"] == [CPU], "what could be done was done"


@pytest.mark.parametrize(
    ("kernel", "cpus", "memory", "words"),
    [
        (Played(set=errno.EPERM), (0, 1), NODE_0, ["EPERM", "seccomp", "CAP_SYS_NICE", "--cap-add SYS_NICE", "first touch"]),
        (Played(set=errno.ENOSYS), (0, 1), NODE_0, ["ENOSYS", "no memory policies"]),
        (Played(mems=(0,)), (0, 1), MemoryPolicy("bind", (1,)), ["node 1 is not in Mems_allowed (0)", "--cpuset-mems"]),
        (Played(set=errno.EINVAL), (0, 1), MemoryPolicy("preferred_many", (0, 1)), ["does not know the mode", "5.15", "use preferred"]),
        (Played(set=errno.EINVAL), (0, 1), MemoryPolicy("weighted_interleave", (0, 1)), ["6.9"]),
        (Played(set=errno.EINVAL), (0, 1), NODE_0, ["EINVAL", "has no memory"]),
        (Played(set=errno.ENOMEM), (0, 1), NODE_0, ["Cannot allocate memory"]),
        (Played(get=errno.EPERM), (0, 1), NODE_0, ["not confirmed", "CAP_SYS_NICE"]),
        (Played(), (0, 1), MemoryPolicy("bind", (5000,)), ["no such node"]),
        (Played(cpus=(4, 5)), (0, 1), NODE_0, ["none of the planned CPUs 0-1", "4-5", "--cpuset-cpus"]),
        (Played(cpus=(1, 2)), (0, 1), NODE_0, ["leaves only CPUs 1 of the planned 0-1", "0 missing"]),
        (Played(affinity=errno.EPERM), (0, 1), NODE_0, ["sched_setaffinity was refused", "CAP_SYS_NICE"]),
        (Played(affinity=errno.ENOSYS), (0, 1), NODE_0, ["sched_setaffinity of 0-1 failed"]),
    ],
)
def test_each_refusal_has_its_own_words_and_strict_makes_it_exit_3(
    kernel: Played, cpus: tuple[int, ...], memory: MemoryPolicy, words: list[str]
) -> None:
    report = bind(cpus, memory, BindMode(), kernel=kernel)
    assert len(report.degradations) == 1
    assert all(word in report.degradations[0] for word in words), report.degradations[0]
    kernel.affinity, kernel.policy = set(kernel.cpuset), (0, ())
    with pytest.raises(PreflightFailed) as caught:
        bind(cpus, memory, BindMode(), strict=True, kernel=kernel)
    assert caught.value.exit_code == 3 and words[0] in str(caught.value)


def test_a_policy_that_comes_back_changed_is_noticed() -> None:
    kernel = Played()
    kernel.get_policy = lambda: (MODES["interleave"], (0, 1))  # type: ignore[method-assign]
    assert "reports interleave on node 0-1 instead" in bind((0,), NODE_0, BindMode(), kernel=kernel).degradations[0]


@pytest.mark.parametrize(
    ("mode", "calls"), [("all", ["affinity", "policy"]), ("cpu", ["affinity"]), ("mem", ["policy"]), ("nic", []), ("none", [])]
)
def test_the_mode_says_what_is_done(mode: str, calls: list[str]) -> None:
    kernel = Played()
    assert bind((0, 1), NODE_0, BindMode.parse(mode), kernel=kernel).degradations == ()
    assert kernel.calls == calls, "affinity first: first touch is then local whatever becomes of the policy"


def test_a_default_policy_asks_nothing_of_a_strict_container() -> None:
    bind((0,), MemoryPolicy(), BindMode(), strict=True, kernel=Played(set=errno.EPERM, get=errno.EPERM))


@pytest.mark.parametrize("text", ["", "gpu", "cpu,gpu", "all,cpu", "None"])
def test_bad_modes(text: str) -> None:
    with pytest.raises(UsageError, match="--bind"):
        BindMode.parse(text)


def test_bad_policies() -> None:
    with pytest.raises(UsageError, match="is not a memory policy"):
        bind((0,), MemoryPolicy("nearest", (0,)), BindMode(), kernel=Played())


@given(st.booleans(), st.booleans(), st.booleans())
def test_modes_round_trip(nic: bool, cpu: bool, mem: bool) -> None:
    mode = BindMode(nic, cpu, mem)
    assert BindMode.parse(str(mode)) == mode


def test_call_numbers_are_those_of_the_kernel_headers() -> None:
    headers = {"x86_64": "asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
    found = 0
    for machine, header in headers.items():
        for folder in ("/usr/include", f"/usr/include/{machine}-linux-gnu"):
            path = Path(folder, header)
            if path.exists():
                found += 1
                names = dict(
                    line.split()[1:3]
                    for line in path.read_text().splitlines()
                    if line.startswith("#define __NR_") and len(line.split()) == 3
                )
                assert (int(names["__NR_set_mempolicy"]), int(names["__NR_get_mempolicy"])) == CALL_NUMBERS[machine]
    if not found:
        pytest.skip("no kernel headers here: install them (Debian: linux-libc-dev)")


def test_an_unknown_machine_degrades() -> None:
    kernel = Kernel()
    kernel.numbers = None
    kernel.set_affinity = lambda cpus: None  # type: ignore[method-assign]
    report = bind(sorted(os.sched_getaffinity(0)), NODE_0, BindMode(), kernel=kernel)
    assert "ENOSYS" in report.degradations[0] and report.policy is None
