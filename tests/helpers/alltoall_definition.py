"""Values, weights and destinations of the alltoall workload in plain Python, one cell at a time, beside its tensor code."""

from collections.abc import Sequence

from entrypoints.workloads.alltoall import reference
from entrypoints.workloads.alltoall.reference import Routing


def value(key: int, token: int, column: int) -> float:
    """An activation in [-2, 2) that BF16 holds exactly (8 significant bits)."""
    return ((reference.cell(key, token, column) & 0xFF) - 128) / 64


def weight(key: int, token: int, slot: int) -> float:
    """A gate weight in (0, 1], a multiple of 1/256: sums of a few are exact in float32."""
    return ((reference.cell(key, token, slot) & 0xFF) + 1) / 256


def expert_gain(expert: int) -> float:
    """What the stand-in for expert `expert` multiplies a token with: 0.5 .. 1.5, different for neighbours, exact in BF16."""
    return 0.5 + (expert * 37 % 64) / 64


def token_nodes(routing: Routing, experts: Sequence[int]) -> tuple[int, ...]:
    """The nodes a token goes to, the local one included: DeepEP's RDMA byte count is per token and node."""
    return tuple(sorted({rank // (routing.ranks // routing.nodes) for rank in reference.token_ranks(routing, experts)}))
