"""Where a node learns its rank: one small reader for each scheduler's environment. Nothing here talks to a network."""

import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from entrypoints.errors import UsageError

Environ = Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """What one source says; None is "not told". `names` are the variables it was read from, by field."""

    source: str
    node_rank: int | None = None
    nodes: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    names: tuple[tuple[str, str], ...] = ()

    def name_of(self, field: str) -> str:
        return dict(self.names).get(field, self.source)


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
    hosts: list[str] = []
    for part in _split_outside_brackets(text.strip()):
        hosts += _expand(part)
        if len(hosts) > 1 << 16:
            raise ValueError("more than 65536 hosts")
    return hosts


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if depth not in (0, 1):
            raise ValueError(f"unbalanced brackets in {text!r}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise ValueError(f"unbalanced brackets in {text!r}")
    return [part for part in parts if part]


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
    return [head + each + end for each in numbers for end in tails]


def first_number(text: str) -> int | None:
    """Slurm's compact per-node counts "8(x2),4" -> 8."""
    match = re.match(r"[0-9]+", text.strip())
    return int(match.group()) if match else None


def plain(environ: Environ) -> Found | None:
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
    names = tuple((field, name) for field, name in (("node_rank", "RANK"), ("nodes", "WORLD_SIZE")))
    return Found("RANK and WORLD_SIZE", rank, world, names=names)


def leader_worker_set(environ: Environ) -> Found | None:
    """LeaderWorkerSet's own variables (lws.sigs.k8s.io, "Environment variables")."""
    rank, size = number(environ, "LWS_WORKER_INDEX"), number(environ, "LWS_GROUP_SIZE")
    if rank is None and size is None:
        return None
    names = (("node_rank", "LWS_WORKER_INDEX"), ("nodes", "LWS_GROUP_SIZE"), ("master_addr", "LWS_LEADER_ADDRESS"))
    return Found("LeaderWorkerSet", rank, size, environ.get("LWS_LEADER_ADDRESS") or None, names=names)


def slurm(environ: Environ) -> Found | None:
    """A Slurm step; the first host of the list is the master. The list is expanded here: no scontrol in an image."""
    rank = number(environ, "SLURM_NODEID")
    if rank is None:
        return None
    # SLURM_TASKS_PER_NODE also stands in sbatch's own script, where it says nothing of how this process was started.
    tasks = first_number(environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if tasks is not None and tasks > 1:
        raise UsageError(
            f"srun starts {tasks} tasks a node, this needs one",
            where="SLURM_STEP_TASKS_PER_NODE",
            hint="srun --ntasks-per-node=1; for your own command: srun ... exec -- CMD",
        )
    names = [("node_rank", "SLURM_NODEID")]
    nodes = None
    for name in ("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"):
        if nodes is None and (nodes := number(environ, name)) is not None:
            names.append(("nodes", name))
    master = None
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        if environ.get(name):
            try:
                hosts = expand_hostlist(environ[name])
            except ValueError as error:
                raise UsageError(str(error), where=name, hint="expected Slurm's host list, like n[01-04,7]") from None
            if nodes is not None and len(hosts) != nodes:
                raise UsageError(f"lists {len(hosts)} hosts, but {dict(names)['nodes']}={nodes}", where=name, hint="unset the stale one")
            nodes, master = nodes or len(hosts), hosts[0] if hosts else None
            names += [("master_addr", name)] + ([("nodes", name)] if "nodes" not in dict(names) else [])
            break
    return Found("Slurm", rank, nodes, master, names=tuple(names))


def open_mpi(environ: Environ) -> Found | None:
    """One process a node under mpirun (Open MPI 4 and 5 set the same names)."""
    rank, size = number(environ, "OMPI_COMM_WORLD_RANK"), number(environ, "OMPI_COMM_WORLD_SIZE")
    if rank is None or size is None:
        return None
    local = number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE")
    if local is not None and local > 1:
        raise UsageError(
            f"mpirun starts {local} processes on this node, this needs one",
            where="OMPI_COMM_WORLD_LOCAL_SIZE",
            hint="mpirun --map-by ppr:1:node; for your own command: mpirun ... exec -- CMD",
        )
    names = (("node_rank", "OMPI_COMM_WORLD_RANK"), ("nodes", "OMPI_COMM_WORLD_SIZE"))
    return Found("Open MPI", rank, size, names=names)


def hydra(environ: Environ) -> Found | None:
    """MPICH, Intel MPI and PALS: PMI_RANK and PMI_SIZE, one process a node."""
    rank, size = number(environ, "PMI_RANK"), number(environ, "PMI_SIZE")
    if rank is None or size is None:
        return None
    for name in ("MPI_LOCALNRANKS", "PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"):
        local = number(environ, name)
        if local is not None and local > 1:
            raise UsageError(f"{local} processes were started on this node, this needs one", where=name, hint="mpiexec -ppn 1")
    return Found("PMI", rank, size, names=(("node_rank", "PMI_RANK"), ("nodes", "PMI_SIZE")))


def indexed_job(environ: Environ, full_name: Callable[[], str] | None = None) -> Found | None:
    """A Kubernetes Indexed Job or a JobSet's job: the index is told, the count is not; the master is index 0's host name."""
    rank = number(environ, "JOB_COMPLETION_INDEX")
    if rank is None:
        return None
    master = None
    host, dot, domain = (full_name or full_host_name)().partition(".")
    if host.endswith(f"-{rank}"):
        master = host[: -len(str(rank))] + "0" + dot + domain
    return Found("Indexed Job", rank, None, master, names=(("node_rank", "JOB_COMPLETION_INDEX"), ("master_addr", "the pod's host name")))


def full_host_name(hosts: str = "/etc/hosts") -> str:
    """The host name with the domain that the kubelet wrote to /etc/hosts; no DNS query is made."""
    name = socket.gethostname()
    with suppress(OSError), open(hosts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            names = line.partition("#")[0].split()[1:]
            if name in names:
                return next((each for each in names if each.startswith(name + ".")), name)
    return name


#: Innermost launcher first: mpirun runs inside a Slurm allocation, not the other way round.
PLATFORMS: tuple[Callable[[Environ], Found | None], ...] = (leader_worker_set, open_mpi, hydra, slurm, indexed_job)
