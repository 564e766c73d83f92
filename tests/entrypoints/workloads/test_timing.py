"""Statistics of a timed collective."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.workloads.alltoall.timing import FP8_FACTOR, Volume, gbps, summarise

TIMES = st.lists(st.floats(0.001, 1e9), min_size=1, max_size=40)


@given(TIMES)
def test_the_median_is_of_the_repeats(values: list[float]) -> None:
    times = summarise([values])
    assert times.median == pytest.approx(statistics.median(values), abs=1e-3)
    assert times.min <= times.p25 <= times.median <= times.p75 <= times.max and times.repeats == len(values)


def test_the_slowest_rank_counts_in_each_repeat() -> None:
    times = summarise([[1.0, 9.0, 2.0], [5.0, 1.0, 2.0]])
    assert (times.min, times.median, times.max, times.repeats) == (2.0, 5.0, 9.0, 3)


def test_ranks_with_different_numbers_of_repeats_are_an_error() -> None:
    with pytest.raises(ValueError):
        summarise([[1.0], [1.0, 2.0]])


def test_units() -> None:
    # 1e9 bytes in one second is one GB/s.
    assert gbps(1e9, 1e6) == 1.0
    assert gbps(1, 0) == 0.0


def test_fp8_bytes_against_bf16() -> None:
    hidden = 7168
    assert hidden * 2 * FP8_FACTOR == hidden + 4 * hidden / 128
    assert Volume(2, 4, 6).scaled(0.5) == Volume(1, 2, 3)
