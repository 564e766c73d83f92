"""What is run on a GPU, and what must come of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BENCH, SHARED = "bench", "shared"


@dataclass(frozen=True)
class Case:
    """One run. `expect` is EPBox's exit code (None: only recorded), `finding` the first fatal cause that diagnose must name."""

    name: str
    kind: str
    words: tuple[str, ...]
    library: str | None = None
    expect: int | None = 0
    finding: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 150.0
    #: Others may run at the same time: nothing is timed.
    measured: bool = False
    #: Only the first of the test's cases is run: the result says that it is not complete.
    partial: bool = False
    #: What the bench's output must say.
    says: str | None = None


def bench(name: str, workload: str, *words: str, library: str | None = None, **more: Any) -> Case:
    return Case(name, BENCH, ("--workload", workload, *words), library, **more)


def shared(name: str, ranks: int, test: str, *words: str, options: tuple[str, ...] = (), **more: Any) -> Case:
    return Case(name, SHARED, ("--ranks", str(ranks), *options, test, *words), "v1", **more)


def first(gpus: int) -> Iterator[Case]:
    """Timed, one after another, with the machine to themselves."""
    yield bench("ll-1", "deepep-low-latency", "--ranks", "1", "--runs", "3", library="v1", measured=True)
    yield bench("alltoall-1", "alltoall", "--ranks", "1", "--runs", "3", measured=True)


def several(gpus: int) -> Iterator[Case]:
    """A rank a GPU: every arm of the binding, three interleaved runs."""
    for ranks in (each for each in (2, 4, 8) if each <= gpus):
        bound = ("--ranks", str(ranks), "--ablate", "--runs", "3")
        long: dict[str, Any] = {"measured": True, "timeout_s": 1800.0}
        yield bench(f"intranode-{ranks}", "deepep-intranode", *bound, library="v1", **long)
        yield bench(f"ll-{ranks}", "deepep-low-latency", *bound, library="v1", **long)
        yield bench(f"elastic-{ranks}", "deepep-elastic", *bound, "--", "--test-first-only", library="v2", partial=True, **long)
        yield bench(f"alltoall-{ranks}", "alltoall", *bound, **long)


def elastic() -> Iterator[Case]:
    """V2, on a cold JIT cache and then on a warm one."""
    # It prints nothing while it compiles.
    words = ("deepep-elastic", "--force", "--ranks", "1", "--timeout", "230", "--total-timeout", "235", "--", "--test-first-only")
    yield bench("elastic-1-cold", *words, library="v2", partial=True, timeout_s=280.0, env={"EP_JIT_PRINT_COMPILER_COMMAND": "1"})
    yield bench("elastic-1-warm", *words, library="v2", partial=True, timeout_s=280.0, measured=True)


def one_card() -> Iterator[Case]:
    """Several ranks on one GPU: is the data right, and are the ranks where they should be?"""
    small = ("--num-tokens", "128")
    yield shared("shared-intranode-2", 2, "test_intranode.py", *small)
    yield shared("shared-ll-2", 2, "test_low_latency.py")
    yield shared("shared-intranode-8", 8, "test_intranode.py", *small)


def negative() -> Iterator[Case]:
    """What users get wrong: the exit code, and the cause that diagnose names."""
    low = ("deepep-low-latency", "--ranks", "1")
    none = {"NVSHMEM_BOOTSTRAP_UID_SOCK_IFNAME": "nope"}
    info = {"NVSHMEM_DEBUG": "INFO"}
    yield bench("p2p-off", *low, "--", "--disable-nvlink", library="v1", expect=4, finding="no-device-selected", env=info)
    yield bench("wrong-interface", *low, "--force", library="v1", expect=4, finding="nvshmem-bootstrap", env=none)
    # Without --force the preflight sees it first.
    yield Case("wrong-interface-gated", BENCH, ("--workload", *low), "v1", expect=3, env=none, says="net.interfaces")
    yield Case("too-many-ranks", BENCH, ("--workload", low[0], "--ranks", "99"), "v1", expect=8, says="99 ranks need 99 GPUs")
    yield bench("two-processes", *low, "--", "--num-processes", "2", library="v1", expect=4, says="give the script 1")
    yield shared("second-gpu-missing", 2, "test_intranode.py", options=("--plain",), expect=4, finding="unsupported-shape")
    yield shared("two-host-names", 2, "test_low_latency.py", options=("--split-hosts",), expect=4, finding="no-remote-transport")
    small = ("--num-tokens", "128")
    pids = "--private-pids"
    yield shared("private-pids-equal", 2, "test_intranode.py", *small, options=(pids, "equal"), expect=4, finding="cuda-ipc")
    yield shared("private-pids-distinct", 2, "test_intranode.py", *small, options=(pids, "distinct"), expect=None)
