"""Numbers of nodes and ranks by their launchers: one small reader for each one's environment. Nothing here talks to a network."""

import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from entrypoints.errors import UsageError

Environ = Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """A node's numbers by one source; None is unknown. `names` are the variables it was read from, by field."""

    source: str
    node_rank: int | None = None
    nodes: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    names: dict[str, str] = field(default_factory=dict)

    def name_of(self, field_name: str) -> str:
        """The variable that a field was read from."""
        return self.names.get(field_name, self.source)


def number(environ: Environ, name: str) -> int | None:
    """A variable as a non-negative integer, None when unset or empty. Raises UsageError."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"{text!r} is not a number", where=name, hint="unset it or give a non-negative integer")
    return int(text)


def expand_hostlist(text: str) -> list[str]:
    """Slurm's host list in order: "n[01-03,7],gpu-[1-2]x" -> n01 n02 n03 n7 gpu-1x gpu-2x. Raises ValueError.

    Grammar: slurm.conf(5), NodeName; more than one bracket in a name multiplies.
    """
    text = text.strip()
    if not re.fullmatch(r"(?:[^\[\]]|\[[^\[\]]*\])*", text):
        raise ValueError(f"unbalanced brackets in {text!r}")
    hosts: list[str] = []
    # Parts end at a comma outside of brackets.
    for part in re.findall(r"(?:[^\[\],]|\[[^\[\]]*\])+", text):
        hosts += _expand(part)
        if len(hosts) > 1 << 16:
            raise ValueError("more than 65536 hosts")
    return hosts


def _expand(part: str) -> list[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    inside, _, tail = rest.partition("]")
    tails = _expand(tail) if tail else [""]
    numbers: list[str] = []
    for span in inside.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", span)
        if match is None:
            raise ValueError(f"bad range {span!r} in {part!r}")
        low, high = match.group(1), match.group(2) or match.group(1)
        if int(high) < int(low) or int(high) - int(low) >= 1 << 16:
            raise ValueError(f"bad range {span!r} in {part!r}")
        # Leading zeros are part of the name: [08-10] is 08, 09, 10.
        numbers += [str(i).zfill(len(low)) for i in range(int(low), int(high) + 1)]
    return [head + digits + end for digits in numbers for end in tails]


def first_number(text: str) -> int | None:
    """Slurm's compact per-node counts "8(x2),4" -> 8."""
    match = re.match(r"[0-9]+", text.strip())
    return int(match.group()) if match else None


def plain(environ: Environ) -> Claim | None:
    """RANK and WORLD_SIZE in DeepEP's meaning: nodes, not ranks (its tests' init_dist)."""
    rank, world = number(environ, "RANK"), number(environ, "WORLD_SIZE")
    if rank is None and world is None:
        return None
    local, local_world = number(environ, "LOCAL_RANK"), number(environ, "LOCAL_WORLD_SIZE")
    if local is not None and local_world != 1:
        raise UsageError(
            f"LOCAL_RANK={local} beside RANK and WORLD_SIZE is torchrun's environment: it counts ranks, this needs one process a node",
            where="WORLD_SIZE",
            hint="start once a node without torchrun, or use torchrun --nproc-per-node 1; for your own command: exec -- CMD",
        )
    return Claim("RANK and WORLD_SIZE", rank, world, names={"node_rank": "RANK", "nodes": "WORLD_SIZE"})


def leader_worker_set(environ: Environ) -> Claim | None:
    """LeaderWorkerSet's own variables (lws.sigs.k8s.io, "Environment variables")."""
    rank, size = number(environ, "LWS_WORKER_INDEX"), number(environ, "LWS_GROUP_SIZE")
    if rank is None and size is None:
        return None
    names = {"node_rank": "LWS_WORKER_INDEX", "nodes": "LWS_GROUP_SIZE", "master_addr": "LWS_LEADER_ADDRESS"}
    return Claim("LeaderWorkerSet", rank, size, environ.get("LWS_LEADER_ADDRESS") or None, names=names)


def slurm(environ: Environ) -> Claim | None:
    """A Slurm step; the first host of the list is the master. The list is expanded here: no scontrol in an image."""
    rank = number(environ, "SLURM_NODEID")
    if rank is None:
        return None
    # SLURM_TASKS_PER_NODE also stands in sbatch's own script, where it says nothing of how this process was started.
    tasks = first_number(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if tasks is not None and tasks > 1:
        hint = "srun --ntasks-per-node=1; for your own command: srun ... exec -- CMD"
        raise UsageError(f"srun starts {tasks} tasks a node, this needs one", where="SLURM_STEP_TASKS_PER_NODE", hint=hint)
    names = {"node_rank": "SLURM_NODEID"}
    nodes = master = None
    for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"):
        if nodes is None and (nodes := number(environ, name)) is not None:
            names["nodes"] = name
    list_name = next((name for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") if environ.get(name)), None)
    if list_name is not None:
        try:
            hosts = expand_hostlist(environ[list_name])
        except ValueError as error:
            raise UsageError(str(error), where=list_name, hint="expected Slurm's host list, like n[01-04,7]") from None
        if nodes is not None and len(hosts) != nodes:
            raise UsageError(f"lists {len(hosts)} hosts, but {names['nodes']}={nodes}", where=list_name, hint="unset the stale one")
        nodes, master = nodes or len(hosts), hosts[0] if hosts else None
        names["master_addr"] = list_name
        names.setdefault("nodes", list_name)
    return Claim("Slurm", rank, nodes, master, names=names)


def open_mpi(environ: Environ) -> Claim | None:
    """One process a node under mpirun (Open MPI 4 and 5 set the same names)."""
    rank, size = number(environ, "OMPI_COMM_WORLD_RANK"), number(environ, "OMPI_COMM_WORLD_SIZE")
    if rank is None or size is None:
        return None
    local = number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    if local is not None and local > 1:
        hint = "mpirun --map-by ppr:1:node; for your own command: mpirun ... exec -- CMD"
        raise UsageError(f"mpirun starts {local} processes on this node, this needs one", where="OMPI_COMM_WORLD_LOCAL_SIZE", hint=hint)
    return Claim("Open MPI", rank, size, names={"node_rank": "OMPI_COMM_WORLD_RANK", "nodes": "OMPI_COMM_WORLD_SIZE"})


def hydra(environ: Environ) -> Claim | None:
    """MPICH, Intel MPI and PALS: PMI_RANK and PMI_SIZE, one process a node."""
    rank, size = number(environ, "PMI_RANK"), number(environ, "PMI_SIZE")
    if rank is None or size is None:
        return None
    for name in ("MPI_LOCALNRANKS", "PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"):
        local = number(environ, name)
        if local is not None and local > 1:
            raise UsageError(f"{local} processes were started on this node, this needs one", where=name, hint="mpiexec -ppn 1")
    return Claim("PMI", rank, size, names={"node_rank": "PMI_RANK", "nodes": "PMI_SIZE"})


def indexed_job(environ: Environ, full_name: Callable[[], str] | None = None) -> Claim | None:
    """A Kubernetes Indexed Job or a JobSet's job: it gives the index and not the count; the master is index 0's host name."""
    rank = number(environ, "JOB_COMPLETION_INDEX")
    if rank is None:
        return None
    master = None
    host, dot, domain = (full_name or full_host_name)().partition(".")
    if host.endswith(f"-{rank}"):
        master = host[: -len(str(rank))] + "0" + dot + domain
    return Claim("Indexed Job", rank, None, master, names={"node_rank": "JOB_COMPLETION_INDEX", "master_addr": "the pod's host name"})


def full_host_name(hosts: str = "/etc/hosts") -> str:
    """The host name with the domain that the kubelet wrote to /etc/hosts; no DNS query is made."""
    name = socket.gethostname()
    with suppress(OSError), open(hosts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            names = line.partition("#")[0].split()[1:]
            if name in names:
                return next((full for full in names if full.startswith(name + ".")), name)
    return name


#: Innermost launcher first: mpirun runs inside a Slurm allocation, not the other way round.
PLATFORMS: tuple[Callable[[Environ], Claim | None], ...] = (leader_worker_set, open_mpi, hydra, slurm, indexed_job)


class LocalRank(NamedTuple):
    """Which of a node's ranks this process is. `ranks` is None when the launcher does not give how many share the node."""

    local_rank: int
    ranks: int | None
    source: str


#: Launcher, variable of the local rank, and those of the number of local ranks; innermost first: torchrun may run inside srun,
#: not the other way round.
LAUNCHERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("torchrun", "LOCAL_RANK", ("LOCAL_WORLD_SIZE",)),
    ("Open MPI", "OMPI_COMM_WORLD_LOCAL_RANK", ("OMPI_COMM_WORLD_LOCAL_SIZE",)),
    ("MVAPICH2", "MV2_COMM_WORLD_LOCAL_RANK", ("MV2_COMM_WORLD_LOCAL_SIZE",)),
    ("Hydra", "MPI_LOCALRANKID", ("MPI_LOCALNRANKS",)),
    ("PALS", "PALS_LOCAL_RANKID", ("PALS_LOCAL_SIZE",)),
    ("PMI", "PMI_LOCAL_RANK", ("PMI_LOCAL_SIZE",)),
    ("jsrun", "JSM_NAMESPACE_LOCAL_RANK", ("JSM_NAMESPACE_LOCAL_SIZE",)),
    ("Flux", "FLUX_TASK_LOCAL_ID", ()),
    ("Slurm", "SLURM_LOCALID", ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE")),
)


def find_local_rank(environ: Environ, ranks: int | None = None) -> LocalRank | None:
    """The local rank by the innermost launcher, None without one. Raises UsageError for a rank outside the count.

    `ranks` is the user's --ranks. sbatch's own script has SLURM_LOCALID=0 without being a task of srun: with --ranks it is
    taken for what it is, a place from which ranks are to be started.
    """
    for launcher, rank_name, size_names in LAUNCHERS:
        local_rank = number(environ, rank_name)
        if local_rank is None:
            continue
        if launcher == "Slurm" and ranks is not None and "SLURM_STEP_ID" not in environ:
            return None
        size_name, size = next(((name, count) for name in size_names if (count := first_number(environ.get(name, "")))), ("", None))
        if ranks is not None and size is not None and ranks != size:
            text = f"--ranks {ranks}, but {size_name}={environ[size_name]}"
            raise UsageError(text, where=launcher, hint="drop --ranks, the launcher tells")
        size = ranks if size is None else size
        if size is not None and local_rank >= size:
            raise UsageError(f"{rank_name}={local_rank} is not below the {size} local ranks ({size_name or '--ranks'})", where=launcher)
        return LocalRank(local_rank, size, f"{launcher} ({rank_name})")
    return None
