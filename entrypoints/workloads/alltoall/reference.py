"""MoE routing in plain Python: the definition that the tensor code is held to, and the random numbers below it.

The routing is the one of DeepEP's internode test (tests/test_internode.py at v1.2.1): scores per expert, the best
`num_topk_groups` nodes by their best expert, the top-k experts within those nodes, one copy of a token per destination rank.
DeepEP draws scores from |normal| + 1; only their order matters to a top-k, so a counter-based integer hash gives the same
distribution of routes, without ties, identically on every device, torch version and CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MASK = 0xFFFFFFFF
#: Keeps the three random fields of one (seed, rank) apart.
SCORES, VALUES, WEIGHTS = 1, 2, 3
GOLDEN = 0x9E3779B9


def mix(value: int) -> int:
    """A 32-bit avalanche: each input bit flips about half of the output bits. Any int in, [0, 2^32) out."""
    value &= MASK
    value ^= value >> 16
    value = value * 0x7FEB352D & MASK
    value ^= value >> 15
    value = value * 0x846CA68B & MASK
    return value ^ value >> 16


def stream(seed: int, rank: int, field: int) -> int:
    """The key of one random field of one rank."""
    return mix(mix(mix(seed) + rank) + field)


def cell(key: int, row: int, column: int) -> int:
    """The random 32 bits of one cell of a field."""
    return mix(mix(key + row) + column * GOLDEN)


@dataclass(frozen=True)
class Routing:
    """The sizes that decide where a token goes. `experts` is a multiple of `ranks`, `ranks` of `nodes`."""

    nodes: int
    ranks: int
    experts: int
    topk: int
    groups: int

    @property
    def experts_per_rank(self) -> int:
        return self.experts // self.ranks


def token_experts(routing: Routing, key: int, token: int) -> tuple[int, ...]:
    """The experts of one token, best first, limited to its best node groups."""
    scores = [cell(key, token, expert) * routing.experts + expert for expert in range(routing.experts)]
    per_node = routing.experts // routing.nodes
    best = [max(scores[node * per_node : (node + 1) * per_node]) for node in range(routing.nodes)]
    groups = set(sorted(range(routing.nodes), key=lambda node: -best[node])[: routing.groups])
    allowed = [expert for expert in range(routing.experts) if expert // per_node in groups]
    return tuple(sorted(allowed, key=lambda expert: -scores[expert])[: routing.topk])


def token_ranks(routing: Routing, experts: Sequence[int]) -> tuple[int, ...]:
    """The ranks a token is sent to: each once, however many of its experts live there."""
    return tuple(sorted({expert // routing.experts_per_rank for expert in experts}))
