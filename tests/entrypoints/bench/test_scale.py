"""A thousand nodes of eight ranks: gathering, concluding and reporting grow with the number of nodes, not with its square."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from entrypoints.bench.record import result_text
from entrypoints.nodes.rendezvous import NodeFacts, check_agreement
from entrypoints.report import page
from entrypoints.report.load import load
from entrypoints.results.codec import decode, encode
from entrypoints.results.model import Node, Result, Run, Shape
from tests.helpers import large_run
from tests.helpers.bench_process import free_port

#: Ten times the nodes may take this many times as long: linear is 10, quadratic 100.
MOST = 40


def cpu(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its CPU seconds in this process: other work on the machine does not count."""
    start = time.process_time()
    value = call()
    return value, max(0.005, time.process_time() - start)


def test_records_are_gathered_over_real_connections() -> None:
    start = time.process_time()
    few, small = large_run.gather(50, free_port())
    middle = time.process_time()
    many, large = large_run.gather(500, free_port())
    end = time.process_time()
    assert [node.node_rank for node in many] == list(range(500)) and len(few) == 50
    assert many[499].ranks[7].rank == 3999
    # What goes back to each node does not grow with the number of nodes, so all of it together grows linearly.
    assert large["answer_bytes"] < 1.2 * small["answer_bytes"]
    assert end - middle < MOST * max(0.02, middle - start)


def test_a_thousand_nodes_are_concluded_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    took: dict[int, float] = {}
    for nodes in (100, 1000):
        folder = tmp_path / str(nodes)
        folder.mkdir()
        records = [large_run.record(node, nodes) for node in range(nodes)]
        records[nodes // 2]["ranks"][3]["evidence"]["threads_outside"] = 5
        typed = [decode(Node, record) for record in records]
        _, seconds = cpu(lambda typed=typed, folder=folder: large_run.conclude(typed, folder))  # type: ignore[misc]
        material, read = cpu(lambda folder=folder: load(folder))  # type: ignore[misc]
        html, drawn = cpu(lambda material=material: page.render(material))  # type: ignore[misc]
        took[nodes] = seconds + read + drawn
    shown = capsys.readouterr().err
    assert took[1000] < MOST * took[100]
    result = json.loads((tmp_path / "1000" / "result.json").read_text())
    assert len(result["nodes"]) == 1000 and sum(len(node["ranks"]) for node in result["nodes"]) == 8000
    assert result["runs"][0]["best"][0]["per_rank_us"][7999] and result["verdict"].startswith("deepep-low-latency on 1000 node(s)")
    # A terminal gets some rows of each run, not eight thousand.
    assert len(shown.splitlines()) < 500 and "64 of 8000 ranks, failed ones first" in shown and "the slowest 16 of 8000 ranks" in shown
    # The page stays one that a person can read: groups of nodes, quantiles, the ranks that deviate first.
    assert len(html) < 400_000
    assert len(re.findall("<rect", html)) < 400
    assert "8000 ranks, 1 of them off plan or failed" in html and "node 0-999: 44 PASS" in html
    assert html.count("group.check7") == 1, "one warning that all nodes share is one row"
    assert "4003" in html, "the rank that is off plan"
    assert "| 0-999 | WARN |" in page.summary(material)


def test_differing_nodes_are_found_among_a_thousand_and_not_all_are_named() -> None:
    facts = [NodeFacts(hostname=f"n{i}", ranks=8, rails=["mlx5_0"] * 8) for i in range(1000)]
    check_agreement(facts)
    for i in range(0, 1000, 10):
        facts[i] = replace(facts[i], rails=["mlx5_1"] * 8)
    with pytest.raises(Exception, match=r"node 150 \(n150\).* \(and 84 more nodes\)") as caught:
        check_agreement(facts)
    assert len(str(caught.value)) < 3000


def test_result_json_of_many_nodes_is_the_same_document() -> None:
    nodes = tuple(decode(Node, large_run.record(n, 20)) for n in range(20))
    runs = (Run(test="alltoall"), Run(test="internode", arm="none"))
    many = Result(verdict='\n  "nodes": []', shape=Shape(nodes=20), nodes=nodes, runs=runs)
    text = result_text(many)
    assert json.loads(text) == encode(many)
    assert len(text.splitlines()) < 80
    few = replace(many, nodes=nodes[:2])
    assert result_text(few) == json.dumps(encode(few), indent=2) + "\n"


def test_of_many_ranks_those_that_deviate_are_shown(tmp_path: Path) -> None:
    records = [large_run.record(node, 40) for node in range(40)]
    # A rank that a signal ended has no exit code, and a rail that carried nothing is the one to look at.
    records[30]["ranks"][2] |= {"exit_code": None, "signal": 11}
    records[31]["ranks"][1]["evidence"]["traffic"] = {"xmit_bytes": 0, "rcv_bytes": 0}
    large_run.conclude([decode(Node, record) for record in records], tmp_path)
    html = page.render(load(tmp_path))
    rows = [re.sub("<[^>]*>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    assert next(row for row in rows if row[:2] == ["242", "30"])[2:4] == ["signal", "11"]
    assert ["31", "249", "mlx5_1:1", "0", "0", "bytes"] in rows, "16 of 320 rails are shown, this one first"
    assert "320 ranks, 1 of them off plan or failed; 17 shown, those first." in html
