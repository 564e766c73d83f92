"""MoE routing, dispatch and combine in plain Python: the definition the tensor code is held to.

The routing is the one of DeepEP's internode test (tests/test_internode.py at v1.2.1): scores per expert, the best
`num_topk_groups` nodes by their best expert, the top-k experts within those nodes, one copy of a token per destination rank.
DeepEP draws scores from |normal| + 1; only their order matters to a top-k, so a counter-based integer hash gives the same
distribution of routes, without ties, identically on every device, torch version and CPU.
"""

from collections.abc import Iterator, Sequence
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


def value(key: int, token: int, column: int) -> float:
    """An activation in [-2, 2) that BF16 holds exactly (8 significant bits)."""
    return ((cell(key, token, column) & 0xFF) - 128) / 64


def weight(key: int, token: int, slot: int) -> float:
    """A gate weight in (0, 1], a multiple of 1/256: sums of a few are exact in float32."""
    return ((cell(key, token, slot) & 0xFF) + 1) / 256


def expert_gain(expert: int) -> float:
    """What the stand-in for expert `expert` multiplies a token with: 0.5 .. 1.5, different for neighbours, exact in BF16."""
    return 0.5 + (expert * 37 % 64) / 64


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

    @property
    def ranks_per_node(self) -> int:
        return self.ranks // self.nodes


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


def token_nodes(routing: Routing, experts: Sequence[int]) -> tuple[int, ...]:
    """The nodes a token goes to, the local one included: DeepEP's RDMA byte count is per token and node."""
    return tuple(sorted({rank // routing.ranks_per_node for rank in token_ranks(routing, experts)}))


def dispatch(routing: Routing, routes: Sequence[Sequence[Sequence[int]]]) -> Iterator[tuple[int, int, int]]:
    """(destination, source, token) of every copy, ordered as it is received. `routes[source][token]` are its experts."""
    for destination in range(routing.ranks):
        for source, tokens in enumerate(routes):
            for token, experts in enumerate(tokens):
                if destination in token_ranks(routing, experts):
                    yield destination, source, token


def combine_weighted(routing: Routing, experts: Sequence[int], weights: Sequence[float], x: float) -> float:
    """One element of a token after the experts ran and the results were summed: x times the sum of weight and gain."""
    return x * sum(w * expert_gain(expert) for w, expert in zip(weights, experts, strict=True))


def float32_scale(amax: float, limit: float) -> float:
    """The scale of one group of 128 elements: its largest magnitude (not below 1e-4) mapped on the format's limit."""
    return max(amax, 1e-4) / limit
