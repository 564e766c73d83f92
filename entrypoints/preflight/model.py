"""What a check is, what it may look at, and how it answers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from entrypoints.preflight.files import Files, NotReadable
from entrypoints.preflight.live import Probes
from entrypoints.topology.model import Hca, Port, Topology

Status = Literal["PASS", "WARN", "FAIL", "NOT_RUN"]
STATUSES: tuple[Status, ...] = ("PASS", "WARN", "FAIL", "NOT_RUN")

ALLTOALL, V1, V2 = "alltoall", "deepep-v1", "deepep-v2"
EVERY = frozenset({ALLTOALL, V1, V2})
DEEPEP = frozenset({V1, V2})

#: Linux capability numbers (include/uapi/linux/capability.h).
CAP_IPC_LOCK, CAP_SYS_RAWIO, CAP_SYS_ADMIN, CAP_SYS_NICE = 14, 17, 21, 23


@dataclass(frozen=True)
class Answer:
    """What one check found: values seen, and what to do when it is not a PASS."""

    status: Status
    evidence: str
    remedy: str = ""


def passed(evidence: str) -> Answer:
    return Answer("PASS", evidence)


def warned(evidence: str, remedy: str) -> Answer:
    return Answer("WARN", evidence, remedy)


def failed(evidence: str, remedy: str) -> Answer:
    return Answer("FAIL", evidence, remedy)


def not_run(evidence: str, remedy: str = "") -> Answer:
    return Answer("NOT_RUN", evidence, remedy)


@dataclass(frozen=True)
class CheckResult:
    """One line of doctor. `source` names the document, issue or source line that the rule comes from."""

    id: str
    title: str
    status: Status
    evidence: str
    remedy: str
    source: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Host:
    """One host under examination. Checks read it through here alone, so that a copied tree behaves as a live one."""

    files: Files
    environ: Mapping[str, str]
    topology: Topology
    probes: Probes
    workload: str = V1
    #: Number of nodes in the job; None when nobody told.
    nodes: int | None = None
    #: NVSHMEM_DEBUG=INFO output of an earlier run, when given.
    log: str | None = None
    #: Folders that hold Python packages (nvidia/nvshmem/lib, *.dist-info), relative to the root.
    site: tuple[str, ...] = field(default=())

    @property
    def several_nodes(self) -> bool:
        return self.nodes is not None and self.nodes > 1

    @property
    def deepep(self) -> bool:
        return self.workload in DEEPEP

    def status(self, name: str) -> str:
        """One field of /proc/self/status. Raises NotReadable."""
        for line in self.files.text("proc/self/status").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        raise NotReadable(f"/proc/self/status has no {name}")

    def has_capability(self, number: int) -> bool:
        """True when the effective set of this process holds it. Raises NotReadable."""
        try:
            return bool(int(self.status("CapEff"), 16) >> number & 1)
        except ValueError:
            raise NotReadable("/proc/self/status: CapEff is not a mask") from None

    def limit(self, name: str) -> tuple[float, float]:
        """Soft and hard limit as /proc/self/limits names it ("Max open files"); unlimited is inf."""
        for line in self.files.text("proc/self/limits").splitlines():
            if line.startswith(name):
                try:
                    soft, hard = (float("inf") if word == "unlimited" else float(word) for word in line[len(name) :].split()[:2])
                except ValueError:
                    break
                return soft, hard
        raise NotReadable(f"/proc/self/limits has no readable {name!r}")

    def parameters(self) -> dict[str, str]:
        """/proc/driver/nvidia/params as a mapping. Raises NotReadable without the driver."""
        lines = (line.partition(":") for line in self.files.text("proc/driver/nvidia/params").splitlines())
        return {key.strip(): value.strip().strip('"') for key, colon, value in lines if colon}

    def fabric(self) -> tuple[tuple[Hca, Port], ...]:
        """HCAs with their first active port that a rank may use: InfiniBand alone if any is active, else the active RoCE ports."""
        active = [(hca, port) for hca in self.topology.hcas for port in hca.ports if (port.state or "").upper().endswith("ACTIVE")]
        infiniband = [pair for pair in active if pair[1].link_layer == "InfiniBand"]
        first: dict[str, tuple[Hca, Port]] = {}
        for hca, port in infiniband or active:
            first.setdefault(hca.id, (hca, port))
        return tuple(first.values())


@dataclass(frozen=True)
class Check:
    """One row of the registry: `run` is a pure function of the host."""

    id: str
    title: str
    workloads: frozenset[str]
    run: Callable[[Host], Answer]
    source: str
