"""Records of a run with many nodes of 8 ranks, as bench gathers them: the size of real ones, made in milliseconds."""

import os
import resource
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from entrypoints.bench import flow, preflight
from entrypoints.bench.record import outcome
from entrypoints.launch.signals import Stop
from entrypoints.nodes.rendezvous import NodeFacts, Rendezvous
from entrypoints.nodes.session import Session
from entrypoints.nodes.wire import PROTOCOL, Contribution, Everything, Greeting, Welcome, Wire, encode
from entrypoints.results.codec import decode
from entrypoints.results.model import Node
from tests.helpers.patience import busy

RANKS = 8
SHAPE = {"num_tokens": 4096, "hidden": 7168, "num_topk": 8, "num_experts": 256, "num_topk_groups": 4}


def plan() -> dict[str, Any]:
    """A node of eight GPUs and eight HCAs."""
    ranks = [
        {
            **{
                "local_rank": i,
                "gpu": {"index": i, "pci": f"0000:{16 + i:02x}:00.0"},
                "hca": f"mlx5_{i}",
                "hca_pci": f"0000:{32 + i:02x}:00.0",
            },
            **{"port": 1, "path": "PIX", "numa_node": i // 4, "cpus": f"{12 * i}-{12 * i + 11}"},
            "memory": {"policy": "preferred", "nodes": [i // 4]},
            "env": {f"NVSHMEM_SETTING_{n}": f"value {n}" for n in range(10)},
            "reason": "PIX: same PCIe switch; cheapest assignment of eight GPUs to eight HCAs",
        }
        for i in range(RANKS)
    ]
    return {"schema": "epbox.plan/1", "host": {}, "source": "live", "ranks": ranks, "excluded": [], "warnings": []}


def rank(number: int) -> dict[str, Any]:
    i = number % RANKS
    evidence = {
        **{"cpus": f"{12 * i}-{12 * i + 11}", "mems": "0-1", "policy": f"prefer:{i // 4}", "threads": 140},
        **{"threads_outside": 0, "policies": [f"prefer:{i // 4}"], "memory_bytes": {"0": 9 << 30, "1": 1 << 20}, "degradations": []},
        **{"file_bytes": {"0": 1 << 28}, "rail": f"mlx5_{i}:1", "nvshmem": [f"mype {number} dev_id {i} handler GPU"]},
        "traffic": {"xmit_bytes": (1 << 40) + number, "rcv_bytes": (1 << 40) - number},
    }
    return {"rank": number, "local_rank": i, "exit_code": 0, "signal": None, "seconds": 61.5, "evidence": evidence}


def checks() -> dict[str, Any]:
    """A preflight of 45 checks, one of them a warning."""
    every = [
        {
            **{"id": f"group.check{n}", "title": f"check {n}", "status": "WARN" if n == 7 else "PASS", "source": "DeepEP README"},
            **{"evidence": "mlx5_0 to mlx5_7: ACTIVE, 400 Gb/s, firmware 28.39.1002", "remedy": "raise it" if n == 7 else ""},
        }
        for n in range(45)
    ]
    return {"counts": {"PASS": 44, "WARN": 1, "FAIL": 0, "NOT_RUN": 0}, "failed": [], "checks": every}


def runs(nodes: int) -> list[dict[str, Any]]:
    """One run of the low-latency test and one all-to-all: the two that tell of every rank."""
    world = nodes * RANKS
    low = [
        {"rank": r, "dispatch_combine_gbps": 40 + (r * 7919 % 997) / 100, "avg_us": 300.0 + r % 40, "min_us": 280.0, "max_us": 420.0}
        for r in range(world)
    ]
    best: dict[str, Any] = {"op": "combine", "dtype": None, "sms": 24, "nvl_chunk": 8, "rdma_chunk": 16}
    best |= {"rdma_gbps": 43.5, "nvl_gbps": 150.0, "transmit_us": 900.0, "notify_us": 50.0}
    best |= {"per_rank_us": [900 + (r * 31 % 211) / 10 for r in range(world)]}
    run = {"test": "low_latency", "format": "B", "best": [best], "tuning_lines": 0, "passed_cases": 8, "complete": True, "low_latency": low}
    return [{**run, "shape": {**SHAPE, "nodes": nodes, "ranks_per_node": RANKS}, "launch": 0, "bind": "all"}]


def record(node: int, nodes: int) -> dict[str, Any]:
    """What one node contributes."""
    placement = {"text": "8 of 8 ranks on plan, 8 of 8 rails carried traffic", "ok": True, "deviations": []}
    return {
        **{"node_rank": node, "hostname": f"gpu{node:04d}", "plan": plan(), "ranks": [rank(node * RANKS + i) for i in range(RANKS)]},
        **{"placement": placement, "doctor": checks(), "exit_code": 0, "cause": "", "correctness": None, "image": None},
        "launches": [{"arm": None, "bind": "all", "exit_code": 0, "cause": "", "seconds": 61.5}],
        "versions": {"epbox": "0.1.0", "python": "3.13", "torch": "2.11"},
        "runs": runs(nodes) if node == 0 else [],
    }


def job(nodes: int) -> Any:
    """As much of a Job as gathering and concluding look at."""
    args = Namespace(runs=1, ablate=False, baseline=False, min_gbps=None, min_ratio=None, format="table", quiet=True)
    shape = {"nodes": nodes, "ranks_per_node": RANKS, **SHAPE}
    prepared = SimpleNamespace(workload="deepep-low-latency", test="low_latency", shape=shape, notes=(), env={})
    place = Rendezvous(0, nodes, "127.0.0.1", 8361, "flags")
    return SimpleNamespace(
        args=args,
        prepared=prepared,
        rendezvous=place,
        why="asked for",
        bind="all",
        plan=SimpleNamespace(ranks=()),
        topology=SimpleNamespace(hcas=()),
    )


def facts(node: int) -> dict[str, Any]:
    return asdict(NodeFacts(hostname=f"gpu{node:04d}", ranks=RANKS, rails=["mlx5_0"] * RANKS, workload="x"))


def other_nodes(nodes: int, port: int) -> None:
    """All nodes but node 0, in a process of their own: connect, give facts, give a record, and count the bytes that come back."""
    lines = [encode(Contribution(record(node, nodes))) for node in range(1, nodes)]
    wires = []
    for node in range(1, nodes):
        wire = _connect(port + 1)
        wire.send(Greeting(PROTOCOL, "", node, nodes, f"gpu{node:04d}/1/x"))
        wires.append(wire)
    for node, wire in enumerate(wires, 1):
        while not isinstance(wire.receive(time.monotonic() + busy(60)), Welcome):
            pass
        wire.send(Contribution(facts(node)))
    for wire in wires:
        while not isinstance(wire.receive(time.monotonic() + busy(60)), Everything):
            pass
    sys.stdin.readline()
    for wire, line in zip(wires, lines, strict=True):
        wire.send_line(line)
    replies = [wire.receive(time.monotonic() + busy(60)) for wire in wires]
    print(sum(len(encode(reply)) for reply in replies if reply is not None), flush=True)


def _connect(port: int) -> Wire:
    until = time.monotonic() + busy(60)
    while True:
        try:
            return Wire.connect("127.0.0.1", port, 5.0)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def gather(nodes: int, port: int) -> tuple[list[Node], dict[str, float]]:
    """Meet and gather over real connections; the records, and seconds to meet and to gather and bytes sent back a node."""
    place = job(nodes)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    words = [sys.executable, __file__, str(nodes), str(port)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, **pipes)
    own = decode(Node, record(0, nodes))
    start = time.monotonic()
    try:
        with Session(Rendezvous(0, nodes, "127.0.0.1", port)) as session:
            answer = session.open(facts(0), busy(60), preflight.judge)
            assert "refused" not in answer, answer
            met = time.monotonic() - start
            start = time.monotonic()
            print(file=others.stdin, flush=True)
            records, told = flow.gather(place, session, own, Stop())
            seconds = time.monotonic() - start
            answered = int(others.communicate(timeout=busy(60))[0])
    finally:
        others.kill()
        others.wait()
    assert told[0] == 0 and len(records) == nodes
    return records, {"meet": met, "gather": seconds, "answer_bytes": answered / max(1, nodes - 1)}


def conclude(records: list[Node], folder: Path) -> float:
    """Write result.json of all records; the seconds it took."""
    place = job(len(records))
    start = time.monotonic()
    code = flow.conclude(place, records, outcome(records), folder, datetime.now(timezone.utc))
    assert code == 0
    return time.monotonic() - start


if __name__ == "__main__":
    other_nodes(int(sys.argv[1]), int(sys.argv[2]))
