"""A small result folder as bench writes it: two ranks, a sweep in the log, an ablation, a baseline beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from entrypoints.results.codec import decode, encode
from entrypoints.results.model import Result

PLAN = {
    "schema": "epbox.plan/1",
    "host": {},
    "source": "live",
    "excluded": [],
    "warnings": [],
    "ranks": [
        {"local_rank": i, "gpu": None, "hca": "mlx5_0", "hca_pci": None, "port": 1, "path": None, "numa_node": 0, "cpus": str(i),
         "memory": {"policy": "preferred", "nodes": [0]}, "env": {"NVSHMEM_HCA_LIST": "mlx5_0:1"}, "reason": "test"}
        for i in range(2)
    ],
}  # fmt: skip


def best(op: str, dtype: str | None, rdma: float) -> dict[str, Any]:
    item = {"op": op, "dtype": dtype, "sms": 24, "nvl_chunk": 8, "rdma_chunk": 16, "rdma_gbps": rdma, "nvl_gbps": rdma * 3}
    return {**item, "transmit_us": 1000.0, "notify_us": 50.0}


def rank(number: int) -> dict[str, Any]:
    evidence = {"cpus": str(number), "policy": "prefer:0", "threads": 6, "threads_outside": number, "memory_bytes": {"0": 170278912}}
    evidence |= {"degradations": [], "rail": "mlx5_0:1", "traffic": {"xmit_bytes": 1000 + number, "rcv_bytes": 2000}}
    return {"rank": number, "local_rank": number, "exit_code": 0, "signal": None, "seconds": 1.0, "evidence": evidence}


def result() -> dict[str, Any]:
    shape = {"nodes": 2, "ranks": 16, "num_tokens": 4096, "hidden": 7168}
    run: dict[str, Any] = {"test": "internode", "format": "B", "shape": shape, "complete": True}
    run |= {"best": [best("dispatch", "fp8", 43.5), best("combine", None, 61.25)], "tuning_lines": 4, "source": "rank-0.log"}
    low = [{"rank": i, "dispatch_combine_gbps": 30.0 + i, "avg_us": 600.0, "min_us": 500.0, "max_us": 700.0} for i in range(2)]
    arms = [("none", 1.0, None, None), ("nic", 2.0, 1.0, False)]
    check = {"id": "gpu.clocks", "title": "t", "status": "WARN", "evidence": "slow <b>", "remedy": "raise them", "source": "s"}
    node = {
        "node_rank": 0,
        "hostname": "a",
        "plan": PLAN,
        "ranks": [rank(0), rank(1)],
        "placement": {"text": "1 of 2 on plan", "ok": False},
    }
    node["doctor"] = {"counts": {"PASS": 1, "WARN": 1}, "failed": [], "checks": [check]}
    return {
        "schema": "epbox.result/1", "created": "2026-01-02T03:04:05Z", "workload": "deepep-internode", "why": "asked for", "status": "ok",
        "exit_code": 0, "verdict": "numbers right <script>alert(1)</script>", "shape": {"nodes": 2, "ranks_per_node": 8}, "bind": "all",
        "notes": [], "runs": [{**run, "low_latency": low}], "correctness": {"passed": True}, "nodes": [node], "engine": "host",
        "image": None, "versions": {"epbox": "0.1.0", "python": "3"},
        "references": [{"metric": "combine, GB/s (RDMA)", "value": 61.25, "reference": 61.3, "ratio": 0.999, "id": "x", "hardware": "h",
                        "version": None, "bound": True, "source": "blog"}],
        "wire": [{"metric": "combine, GB/s (RDMA)", "value": 61.25, "off_node_gbps": 30.63, "line_rate_gbps": 50.0, "share": 0.613,
                  "explanation": "1 of 2 nodes are remote"}],
        "ablation": [{"arm": arm, "op": "combine", "dtype": None, "median_gbps": v, "direction": "RDMA",
                      "low_gbps": v - 0.1, "high_gbps": v + 0.1, "runs": 3,
                      "change": change, "noise": noise} for arm, v, change, noise in arms],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "run"
    home.mkdir()
    # As bench writes it, with every key.
    (home / "result.json").write_text(json.dumps(encode(decode(Result, result()))))
    lines = [
        f"[tuning] SMs 24, NVL chunk {n}, RDMA chunk {r}: transmit: 900 us, notify: 50 us, BW: {n + r}.25 GB/s (RDMA), 90.00 GB/s (NVL)"
        for n in (4, 8)
        for r in (8, 16)
    ]
    last = lines[-1].replace("SMs", "Best dispatch (FP8): SMs")
    (home / "rank-0.log").write_text("\n".join([*lines, last, "</pre><script>alert(2)</script>\x1b[31m\x00"]))
    return home
