"""Which local rank a launcher has made this process: torchrun, Open MPI, Hydra, PALS, Flux, Slurm."""

from collections.abc import Mapping
from dataclasses import dataclass

from entrypoints.errors import UsageError
from entrypoints.nodes.sources import first_number, number


@dataclass(frozen=True)
class LocalRank:
    """`ranks` is None when the launcher does not tell how many share the node."""

    local_rank: int
    ranks: int | None
    source: str


#: (launcher, local rank, how many local ranks), innermost launcher first: torchrun may run inside srun, not the other way round.
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


def find_local_rank(environ: Mapping[str, str], ranks: int | None = None) -> LocalRank | None:
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
        told = [(name, first_number(environ[name])) for name in size_names if environ.get(name)]
        size_name, size = next(((name, size) for name, size in told if size), ("", None))
        if ranks is not None and size is not None and ranks != size:
            raise UsageError(
                f"--ranks {ranks}, but {size_name}={environ[size_name]}", where=launcher, hint="drop --ranks, the launcher tells"
            )
        size = ranks if size is None else size
        if size is not None and local_rank >= size:
            raise UsageError(f"{rank_name}={local_rank} is not below the {size} local ranks ({size_name or '--ranks'})", where=launcher)
        return LocalRank(local_rank, size, f"{launcher} ({rank_name})")
    return None
