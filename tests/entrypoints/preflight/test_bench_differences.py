"""bench tells what differs between its nodes."""

import copy

import pytest

from entrypoints.bench.preflight import differences
from entrypoints.preflight.compare import host_facts
from tests.helpers.fake_host import FakeHost


def test_a_difference_is_told_and_kept(fake: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    first = host_facts(fake.host())
    second = {**copy.deepcopy(first), "hostname": "node1", "driver": "550.54.15"}
    found = differences([first, second])
    assert (found[0].id, found[0].status) == ("nodes.driver", "WARN")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("doctor WARN nodes.driver: ")
    assert "550.54.15 on node1" in err


def test_equal_nodes_are_silent(fake: FakeHost, capsys: pytest.CaptureFixture[str]) -> None:
    first = host_facts(fake.host())
    found = differences([first, copy.deepcopy(first)])
    assert {result.status for result in found} <= {"PASS", "NOT_RUN"}
    assert not differences([first])
    assert capsys.readouterr().err == ""
