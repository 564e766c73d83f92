"""Slow runs: judged where the shape is that of the measure, silent elsewhere; port counters as evidence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from entrypoints.bench.flow import diagnosis
from entrypoints.diagnosis.facts import HostFacts, gather
from entrypoints.results.codec import decode
from entrypoints.results.model import Result
from tests.helpers.diagnosis import diagnose_lines

SLOW = [
    "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 28, RDMA chunk 32: 19.37 GB/s (RDMA), 63.23 GB/s (NVL)",
    "[tuning] Best dispatch (BF16): SMs 24, NVL chunk 24, RDMA chunk 32: 21.81 GB/s (RDMA), 71.19 GB/s (NVL)",
    "[tuning] Best combine: SMs 24, NVL chunk 4, RDMA chunk 32: 20.95 GB/s (RDMA), 68.38 GB/s (NVL)",
]
CONFIG = "[config] num_tokens=4096, hidden=7168, num_topk_groups=2, num_topk=8"
WIRE = {"metric": "m", "value": 1.0, "off_node_gbps": 1.0, "share": 0.1, "explanation": "x"}
SHAPE = {"nodes": 2, "ranks_per_node": 8, "num_tokens": 4096, "hidden": 7168}


def facts(nodes: Sequence[dict[str, Any]] = (), **parts: Any) -> HostFacts:
    """The facts of a result.json with these parts."""
    whole = {"schema": "epbox.result/1", "verdict": "x", "shape": {}, "runs": [], "nodes": list(nodes), **parts}
    return HostFacts(result=decode(Result, whole))


def causes(lines: list[str], facts: HostFacts | None = None) -> list[str]:
    return [finding.cause_id for finding in diagnose_lines(lines, facts)]


@pytest.mark.parametrize("lines", [SLOW, [CONFIG, *SLOW], [CONFIG, CONFIG, *SLOW, *SLOW]])
def test_the_measures_own_shape_is_judged(lines: list[str]) -> None:
    (finding,) = diagnose_lines(lines)
    assert finding.cause_id == "affinity-not-applied"
    assert "combine 20.9 of 61.3 GB/s" in finding.text or "combine 21.0 of 61.3 GB/s" in finding.text
    assert finding.line == lines.index(SLOW[0]) + 1


@pytest.mark.parametrize(
    "lines",
    [
        [CONFIG.replace("4096", "128"), *SLOW],
        [CONFIG.replace("7168", "2048"), *SLOW],
        [CONFIG.replace("groups=2", "groups=4"), *SLOW],
        [line.replace("SMs 24", "SMs 12") for line in SLOW],
        [CONFIG] * 4 + [line for line in SLOW for _ in range(4)],
    ],
    ids=["tokens", "hidden", "groups", "sms", "four-nodes"],
)
def test_other_shapes_are_not_judged(lines: list[str]) -> None:
    assert causes(lines) == []


@pytest.mark.parametrize(
    ("result", "judged"),
    [
        ({"shape": SHAPE}, True),
        ({"shape": {**SHAPE, "nodes": 4}}, False),
        ({"shape": {**SHAPE, "ranks_per_node": 4}}, False),
        ({"shape": SHAPE, "wire": [{**WIRE, "line_rate_gbps": 50.0}]}, True),
        ({"shape": SHAPE, "wire": [{**WIRE, "line_rate_gbps": 25.0}]}, False),
    ],
)
def test_what_result_json_tells_of_the_shape(result: dict[str, Any], judged: bool) -> None:
    assert causes(SLOW, facts(**result)) == (["affinity-not-applied"] if judged else [])


@pytest.mark.parametrize("text", ['{"shape": null, "wire": "torn", "nodes": [null, {"ranks": 3}]}', "[]", "{", '{"shape": 1e999}'])
def test_a_torn_result_json_tells_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    found = gather(tmp_path)
    assert len(found.unreadable) == 1 and found.result is None
    assert causes(SLOW, found) == ["affinity-not-applied"]


def node(*carried: int) -> dict[str, Any]:
    ranks = [
        {"rank": rank, "local_rank": rank, "evidence": {"rail": f"mlx5_{rank}:1", "traffic": {"xmit_bytes": size, "rcv_bytes": size // 2}}}
        for rank, size in enumerate(carried)
    ]
    return {"node_rank": 0, "hostname": "gpu-a", "ranks": ranks, "plan": {"ranks": []}}


def test_one_port_that_carried_everything() -> None:
    (finding,) = diagnose_lines(["all fine"], facts([node(4 << 30, 900, 0, 3000)]))
    assert (finding.cause_id, finding.severity) == ("all-ranks-one-nic", "warning")
    assert finding.text == "port counters of gpu-a: mlx5_0:1 carried 100% of the bytes of 4 rails"


@pytest.mark.parametrize("carried", [(4 << 30,) * 4, (9000, 0, 0, 0), (4 << 30, 0), (4 << 30, 1 << 30, 0, 0)])
def test_ports_that_share_idle_or_are_few(carried: tuple[int, ...]) -> None:
    assert causes(["all fine"], facts([node(*carried)])) == []


def test_a_failed_bench_hands_its_facts_over(tmp_path: Path) -> None:
    """result.json is not written yet when bench asks; doctor's failure and the counters come from memory."""
    (tmp_path / "rank-0.log").write_text(
        "init failed for transport: IBGDA\nnvshmem setup connections failed\nnvshmem initialization failed\n"
    )
    check = {"id": "gpu.regkeys", "title": "driver registry keys", "status": "FAIL", "evidence": "PeerMappingOverride is not set"}
    doctor = {"counts": {"FAIL": 1}, "failed": ["gpu.regkeys"], "checks": [check]}
    result = facts([{**node(4 << 30, 0, 0), "doctor": doctor}]).result
    assert result is not None
    findings = diagnosis(tmp_path, result)
    assert findings[0].cause_id == "gpu-doorbell-mapping"
    assert findings[0].evidence == ("doctor: driver registry keys: PeerMappingOverride is not set",)
    assert "all-ranks-one-nic" in [finding.cause_id for finding in findings]
