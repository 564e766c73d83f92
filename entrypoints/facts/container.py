"""Rights, devices, limits and mounts of a container, as data (container.toml): renderers give them, doctor looks for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from entrypoints.toml import load_toml

TABLE = Path(__file__).with_name("container.toml")
#: /dev/shm for the ranks of a node: below this doctor warns, and a container with an IPC namespace of its own gets this much.
LEAST_SHM_BYTES = 1 << 30

Kind = Literal["gpus", "device", "network", "limit", "capability", "ipc", "mount"]
_DOCKER = {
    "gpus": "--gpus {}",
    "device": "--device={}",
    "network": "--network={}",
    "limit": "--ulimit {}",
    "capability": "--cap-add {}",
    "ipc": "--ipc={}",
}


@dataclass(frozen=True, kw_only=True)
class Need:
    """One row of container.toml."""

    name: str
    kind: Kind
    value: str
    why: str
    needed_by: tuple[str, ...]
    number: int = -1
    instead: str = ""
    rootless: bool = True

    @property
    def docker(self) -> str:
        """The option of `docker run` that gives it; empty for a mount, whose folder on the host is the user's."""
        return _DOCKER.get(self.kind, "").format(self.value)


@cache
def table() -> dict[str, Need]:
    """All rows of container.toml by name."""
    return {name: Need(name=name, **{**row, "needed_by": tuple(row["needed_by"])}) for name, row in load_toml(TABLE).items()}


def need(name: str) -> Need:
    """The row of that name. Raises KeyError when the table has none."""
    return table()[name]


def needed(*, gpus: bool, rdma: bool, several_nodes: bool) -> tuple[Need, ...]:
    """The needs of a container for such a workload, in the table's order: what it is given by default."""
    reasons = {"every": True, "gpus": gpus, "rdma": rdma, "nodes": several_nodes}
    return tuple(row for row in table().values() if any(reasons[reason] for reason in row.needed_by))


def values(needs: Iterable[Need], kind: Kind) -> list[str]:
    """The values of one kind, such as the capabilities' names."""
    return [row.value for row in needs if row.kind == kind]


def advice(*names: str) -> str:
    """A remedy in words that gives these to a container: options of `docker run`, and the capabilities as the field of a pod."""
    rows = [need(name) for name in names]
    pod = ", ".join(values(rows, "capability"))
    return f"docker run {' '.join(row.docker for row in rows)}" + (f"; pod: capabilities.add: [{pod}]" if pod else "")


def podman(needs: Iterable[Need]) -> list[str]:
    """The same as options of rootless podman, where limits are the host's. GPUs and devices are left to who wraps podman."""
    options = []
    for row in needs:
        if row.kind == "limit":
            options.append("--ulimit=host")
        elif row.rootless and row.kind in ("network", "capability", "ipc"):
            options.append(row.docker.replace(" ", "=", 1))
    return options
