"""The assignment is optimal, whatever the costs: checked against all permutations."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.placement.hca import assign


@st.composite
def cost_tables(draw: st.DrawFn) -> list[list[int]]:
    rows = draw(st.integers(1, 5))
    columns = draw(st.integers(rows, 6))
    cost = draw(st.sampled_from([st.integers(0, 3), st.integers(-(10**6), 10**6), st.integers(0, 1 << 90)]))
    return draw(st.lists(st.lists(cost, min_size=columns, max_size=columns), min_size=rows, max_size=rows))


def total(costs: list[list[int]], columns: list[int] | tuple[int, ...]) -> int:
    return sum(line[column] for line, column in zip(costs, columns, strict=True))


@given(cost_tables())
@settings(max_examples=150, deadline=None)
def test_no_permutation_is_cheaper(costs: list[list[int]]) -> None:
    chosen = assign(costs)
    assert len(set(chosen)) == len(costs)
    best = min(total(costs, columns) for columns in itertools.permutations(range(len(costs[0])), len(costs)))
    assert total(costs, chosen) == best


def test_empty_and_impossible() -> None:
    assert assign([]) == []
    with pytest.raises(ValueError, match="2 rows"):
        assign([[1], [1]])


def test_64_by_64_takes_milliseconds() -> None:
    costs = [[(1 << 60) * (i // 8 != j // 8) + (i - j) ** 2 for j in range(64)] for i in range(64)]
    best = min(_timed(costs) for _ in range(3))
    assert best < 0.1


def _timed(costs: list[list[int]]) -> float:
    start = time.process_time()
    assert assign(costs) == list(range(64))
    return time.process_time() - start
