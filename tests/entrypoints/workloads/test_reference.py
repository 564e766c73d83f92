"""The plain definition of routing, dispatch and combine."""

import struct
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.workloads.alltoall import reference
from entrypoints.workloads.alltoall.reference import Routing
from tests.helpers import alltoall_definition


@st.composite
def routings(draw: st.DrawFn) -> Routing:
    nodes = draw(st.integers(1, 4))
    ranks = nodes * draw(st.integers(1, 4))
    experts = ranks * draw(st.integers(1, 5))
    groups = draw(st.integers(1, nodes))
    topk = draw(st.integers(1, groups * experts // nodes))
    return Routing(nodes, ranks, experts, topk, groups)


@settings(max_examples=150, deadline=None)
@given(routings(), st.integers(0, 2**31), st.integers(0, 50))
def test_a_token_goes_to_topk_distinct_experts_in_at_most_groups_nodes(routing: Routing, seed: int, token: int) -> None:
    experts = reference.token_experts(routing, reference.stream(seed, 0, reference.SCORES), token)
    assert len(set(experts)) == len(experts) == routing.topk
    assert all(0 <= expert < routing.experts for expert in experts)
    assert len(alltoall_definition.token_nodes(routing, experts)) <= routing.groups


@settings(max_examples=80, deadline=None)
@given(routings(), st.integers(0, 2**31))
def test_no_expert_left_out_of_the_chosen_nodes_scores_higher(routing: Routing, seed: int) -> None:
    key = reference.stream(seed, 3, reference.SCORES)
    experts = reference.token_experts(routing, key, 7)
    score = {e: reference.cell(key, 7, e) * routing.experts + e for e in range(routing.experts)}
    per_node = routing.experts // routing.nodes
    best = {node: max(score[e] for e in range(node * per_node, (node + 1) * per_node)) for node in range(routing.nodes)}
    chosen = sorted(best, key=lambda node: -best[node])[: routing.groups]
    others = [score[e] for e in range(routing.experts) if e // per_node in chosen and e not in experts]
    assert min(score[e] for e in experts) > max(others, default=-1)
    assert [score[e] for e in experts] == sorted((score[e] for e in experts), reverse=True)


@settings(max_examples=60, deadline=None)
@given(routings(), st.integers(0, 1000))
def test_a_token_is_sent_once_to_each_rank_that_holds_one_of_its_experts(routing: Routing, seed: int) -> None:
    for rank in range(routing.ranks):
        key = reference.stream(seed, rank, reference.SCORES)
        for token in range(3):
            experts = reference.token_experts(routing, key, token)
            ranks = reference.token_ranks(routing, experts)
            assert list(ranks) == sorted({expert // routing.experts_per_rank for expert in experts})
            assert set(alltoall_definition.token_nodes(routing, experts)) == {rank // (routing.ranks // routing.nodes) for rank in ranks}


def test_worked_example_of_group_limited_gating() -> None:
    # Two nodes of two ranks, two experts a rank: with one group all four experts must be of one node.
    routing = Routing(nodes=2, ranks=4, experts=8, topk=4, groups=1)
    for token in range(40):
        experts = reference.token_experts(routing, reference.stream(1, 0, reference.SCORES), token)
        assert sorted(experts) in ([0, 1, 2, 3], [4, 5, 6, 7])
        assert reference.token_ranks(routing, experts) in ((0, 1), (2, 3))


def test_routes_spread_evenly_over_experts() -> None:
    routing = Routing(nodes=1, ranks=4, experts=16, topk=2, groups=1)
    key = reference.stream(0, 0, reference.SCORES)
    load = Counter(expert for token in range(2000) for expert in reference.token_experts(routing, key, token))
    # 250 expected; five standard deviations of a binomial with p = 1/8 are 74.
    assert all(abs(load[expert] - 250) < 75 for expert in range(16))


@given(st.integers(0, reference.MASK), st.integers(0, 2000), st.integers(0, 8192))
def test_values_are_exact_in_bf16_and_weights_in_a_few_bits(key: int, row: int, column: int) -> None:
    value = alltoall_definition.value(key, row, column)
    assert -2 <= value < 2
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    assert bits & 0xFFFF == 0, "BF16 is the upper half of a float32"
    weight = alltoall_definition.weight(key, row, column)
    assert 0 < weight <= 1
    assert weight * 256 == int(weight * 256)


def test_neighbouring_experts_have_different_gains() -> None:
    gains = [alltoall_definition.expert_gain(expert) for expert in range(64)]
    assert len(set(gains)) == 64
    assert min(gains) >= 0.5
    assert max(gains) < 1.5
