"""What a check is, what it may look at, and how it answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from entrypoints.placement.devices import is_active
from entrypoints.preflight.files import Files, NotReadable
from entrypoints.preflight.live import Probes
from entrypoints.results.model import Check
from entrypoints.topology.model import Hca, Port, Topology

Status = Literal["PASS", "WARN", "FAIL", "NOT_RUN"]
STATUSES: tuple[Status, ...] = ("PASS", "WARN", "FAIL", "NOT_RUN")

ALLTOALL, V1, V2 = "alltoall", "deepep-v1", "deepep-v2"
EVERY = frozenset({ALLTOALL, V1, V2})
DEEPEP = frozenset({V1, V2})


@dataclass(frozen=True)
class Answer:
    """What one check found: values seen, and what to do when it is not a PASS."""

    status: Status
    evidence: str
    remedy: str = ""

    def result(self, id: str, title: str, source: str) -> Check:
        """This answer as one line of doctor. `source` names the document, issue or source line that the rule comes from."""
        return Check(id=id, title=title, status=self.status, evidence=self.evidence, remedy=self.remedy, source=source)


def passed(evidence: str) -> Answer:
    return Answer("PASS", evidence)


def warned(evidence: str, remedy: str) -> Answer:
    return Answer("WARN", evidence, remedy)


def failed(evidence: str, remedy: str) -> Answer:
    return Answer("FAIL", evidence, remedy)


def not_run(evidence: str, remedy: str = "") -> Answer:
    return Answer("NOT_RUN", evidence, remedy)


@dataclass(frozen=True)
class Library:
    """A library that is judged: its version where it is known, and how (which file would load, whose metadata)."""

    version: str | None
    basis: str


@dataclass(frozen=True)
class Host:
    """One host under examination. Checks read it through here alone, so that a copied tree behaves as a live one."""

    files: Files
    environ: Mapping[str, str]
    topology: Topology
    #: What asks the running host; None for a copy of a host.
    live: Probes | None
    workload: str = V1
    #: Number of nodes in the job; None when nobody told.
    nodes: int | None = None
    #: NVSHMEM_DEBUG=INFO output of an earlier run, when given.
    log: str | None = None
    #: Folders that hold Python packages (nvidia/nvshmem/lib, *.dist-info), relative to the root.
    site: tuple[str, ...] = ()
    #: "nccl" and "nvshmem" as a process really had them after import (`doctor --probe`).
    loaded: Mapping[str, Library] = field(default_factory=dict)

    @property
    def probes(self) -> Probes:
        """Questions to the running host. Raises NotReadable for a copy of a host."""
        if self.live is None:
            raise NotReadable("only the running host can tell")
        return self.live

    @property
    def several_nodes(self) -> bool:
        return self.nodes is not None and self.nodes > 1

    @property
    def deepep(self) -> bool:
        return self.workload in DEEPEP

    def fields(self, name: str) -> dict[str, str]:
        """The `key: value` lines of a file of /proc. Raises NotReadable."""
        lines = (line.partition(":") for line in self.files.text(name).splitlines())
        return {key.strip(): value.strip().strip('"') for key, colon, value in lines if colon}

    def status(self, name: str) -> str:
        """One field of /proc/self/status. Raises NotReadable."""
        fields = self.fields("proc/self/status")
        if name not in fields:
            raise NotReadable(f"/proc/self/status has no {name}")
        return fields[name]

    def is_set(self, variable: str) -> bool:
        """True when a Boolean variable of NVSHMEM is on, by its grammar: 0, n... and f... are off."""
        return self.environ.get(variable, "")[:1].lower() not in ("0", "n", "f", "")

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

    def fabric(self) -> tuple[tuple[Hca, Port], ...]:
        """HCAs with their first active port that a rank may use: InfiniBand alone if any is active, else the active RoCE ports."""
        active = [(hca, port) for hca in self.topology.hcas for port in hca.ports if is_active(port)]
        infiniband = [pair for pair in active if pair[1].link_layer == "InfiniBand"]
        first: dict[str, tuple[Hca, Port]] = {}
        for hca, port in infiniband or active:
            first.setdefault(hca.id, (hca, port))
        return tuple(first.values())

    def rails(self) -> tuple[tuple[Hca, Port], ...]:
        """As fabric(), and never empty. Raises NotReadable without an active port."""
        fabric = self.fabric()
        if not fabric:
            raise NotReadable("no active port")
        return fabric


@dataclass(frozen=True)
class Rule:
    """One row of the registry: `run` is a pure function of the host."""

    id: str
    title: str
    workloads: frozenset[str]
    run: Callable[[Host], Answer]
    source: str
