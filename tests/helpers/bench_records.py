"""Made-up runs and node records of a bench."""

from typing import Any


def best(gbps: float, op: str = "combine", dtype: str | None = None, us: tuple[float, float, float] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"op": op, "dtype": dtype, "sms": None, "nvl_chunk": None, "rdma_chunk": None}
    entry |= {"rdma_gbps": gbps, "nvl_gbps": gbps * 2, "transmit_us": 100.0, "notify_us": None}
    if us is not None:
        low, middle, high = us
        entry["us"] = {"median": middle, "p25": low, "p75": high, "min": low, "max": high, "repeats": 9}
    return entry


def run_of(*bests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"test": "alltoall", "format": "alltoall", "best": list(bests), "tuning_lines": 0, "passed_cases": 8, "complete": True, **more}


def node(runs: list[dict[str, Any]] | None = None, node_rank: int = 0, exit_code: int = 0, cause: str = "", **more: Any) -> dict[str, Any]:
    return {
        "node_rank": node_rank,
        "hostname": f"host{node_rank}",
        "plan": {"schema": "epbox.plan/1", "ranks": []},
        "ranks": [],
        "doctor": None,
        "exit_code": exit_code,
        "cause": cause,
        "correctness": None,
        "launches": [{"arm": None, "bind": "all", "exit_code": exit_code, "cause": cause, "seconds": 1.0}],
        "runs": runs or [],
        "versions": {"epbox": "1", "python": "3"},
        "image": None,
        **more,
    }
