"""Two guests with a wire between them are two nodes: verbs traffic of a bound rank, and a whole bench over both."""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entrypoints.results.codec import BENCH
from tests.guest import machine
from tests.guest.conftest import FILES

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(3000)]
States = Callable[[int], Path]
EXEC = "python3 -m entrypoints exec --workload alltoall"


def both(jobs: tuple[str, str], limit: float, states: States | None = None, shape: machine.Shape = machine.HOST) -> list[machine.Outcome]:
    """Run one job in each of two guests that share a wire: restored from saved states, or booted where there are none of that shape."""
    wire = Path(tempfile.mkdtemp(prefix="epbox-wire-")) / "socket"
    try:
        with ExitStack() as stack:
            first = stack.enter_context(machine.machine(0, state=states and states(0), link=f"listen:{wire}", shape=shape))
            first.qmp("query-status")
            second = stack.enter_context(machine.machine(1, state=states and states(1), link=f"connect:{wire}", shape=shape))
            for guest in () if states else (first, second):
                guest.attach()  # the second may be ready before the first
            for guest in () if states else (first, second):
                guest.wait_ready(machine.BOOT_S)
            for guest, job in zip((first, second), jobs, strict=True):
                machine.start(guest, job, FILES)
            return [guest.wait(limit) for guest in (first, second)]
    finally:
        shutil.rmtree(wire.parent, ignore_errors=True)


def test_a_planned_rail_carries_verbs_traffic_between_nodes(states: States) -> None:
    ping = "ibv_rc_pingpong -d $(echo $NVSHMEM_HCA_LIST | cut -d: -f1) -g 1 -n 40"
    count = "cat /sys/class/infiniband/mlx5_*/ports/1/hw_counters/sent_pkts | tr '\\n' ' '"
    rank = "export LOCAL_RANK=5 LOCAL_WORLD_SIZE=8"
    plan = ". /host/gpus.sh\npython3 -m entrypoints plan --workload alltoall --format json > plan.json\n"
    pick = 'python3 -c \'import json; print(json.load(open("plan.json"))["ranks"][5]["hca"])\''
    hca = f"NVSHMEM_HCA_LIST=$({pick}):1; export NVSHMEM_HCA_LIST\n"
    server = f"{plan}{hca}{rank}; timeout 500 {EXEC} --bind cpu,mem -- sh -c '{ping}'; code=$?; echo; echo PKTS $({count}); exit $code\n"
    client = (
        f"{plan}{hca}{rank}; for i in $(seq 60); do sleep 2; "
        f"{EXEC} --bind cpu,mem -- sh -c '{ping} 10.77.0.1' && break; done; code=$?; echo; echo PKTS $({count}); exit $code\n"
    )
    for done in machine.twice(lambda: both((server, client), machine.JOB_S, states)):
        assert done.code == 0, done.output
        line = next(text for text in done.output.splitlines() if text.startswith("PKTS "))
        sent = [int(word) for word in line.split()[1:]]
        # Rank 5's rail and no other moved packets of the ping-pong (40 x at least four packets of 1 KiB).
        assert sent[5] > 100 and max(sent[:5] + sent[6:]) < sent[5] / 10, sent


#: (local rank, CPUs, NUMA node, HCA) of each guest, as QEMU was told to make them.
PLACES = ((0, "0-1", "0", "mlx5_0"), (1, "2-3", "1", "mlx5_1"))
REPEATS = 3


def bench(node: int) -> str:
    """bench on node `node` of two: its result, and the bytes that this guest sent meanwhile."""
    sent = "cat /sys/class/net/e*/statistics/tx_bytes | awk '{ sum += $1 } END { print sum }'"
    return (
        f". /host/chroot.sh\nexport PYTHONPATH=/host\nbefore=$({sent})\n"
        f"torch_root python3 -m entrypoints bench --workload alltoall --nodes 2 --node-rank {node} --master-addr 10.77.0.1 --ranks 2 "
        f"--num-tokens 32 --hidden 256 --warmup 1 --repeats {REPEATS} --join-timeout 900 --timeout 900 --out /host/out\n"
        f"code=$?\necho SENT $(($({sent}) - before))\necho '=== json'; cat /host/out/result*.json; echo '=== end'; exit $code\n"
    )


def test_alltoall_over_two_guests(torch_disk: Path) -> None:
    """Four gloo ranks, two a guest: right numbers, every rank on its NUMA node, its payload on the wire; one result of both nodes."""
    # AVX for libpsm2, which comes with Debian's torch by Open MPI: it uses it when it is loaded and finds the clock unsteady.
    small = machine.Shape(cpus=4, threads=1, pairs=1, cpu="Nehalem,+xsave,+avx", disk=torch_disk)
    first, second = machine.twice(lambda: both((bench(0), bench(1)), 1200, shape=small))
    assert first.code == 0, first.output
    assert second.code == 0, second.output
    print(first.output.partition("SENT")[0])
    result: dict[str, Any] = json.loads(first.output.partition("=== json\n")[2].partition("=== end")[0])
    jsonschema.validate(result, BENCH)
    assert (result["status"], result["workload"], result["runs"][0]["backend"], result["runs"][0]["world"]) == ("ok", "alltoall", "gloo", 4)
    assert result["verdict"].endswith("2 of 2 ranks on plan on each node") and "numbers right" in result["verdict"]
    correctness = result["correctness"]
    # 8 cases, 2 weighted steps and the timed result; 8 dispatches and 2 timed ones (bytes over two a BF16 element are tokens).
    assert correctness["passed"] and correctness["cases"] == 8 and correctness["combined_tokens_checked"] == 4 * 32 * 11
    best = {(row["op"], row["dtype"]): row for row in result["runs"][0]["best"]}
    assert correctness["received_tokens_checked"] == 10 * 4 * best["dispatch", "bf16"]["bytes"]["nvl"] // (256 * 2)
    # No bandwidth: rounded to 0.1 MB/s it may be 0 in an emulator on a busy host.
    assert all(row["us"]["min"] > 0 and row["us"]["repeats"] == REPEATS for row in best.values()) and len(best) == 3
    assert [(node["node_rank"], node["hostname"]) for node in result["nodes"]] == [(0, "guest0"), (1, "guest1")]
    for node in result["nodes"]:
        assert node["placement"] == {"text": "2 of 2 ranks on plan", "ok": True, "deviations": []}
        assert [rank["rank"] for rank in node["ranks"]] == [2 * node["node_rank"], 2 * node["node_rank"] + 1]
        for rank, (local, cpus, numa, hca) in zip(node["ranks"], PLACES, strict=True):
            seen = rank["evidence"]
            assert (rank["local_rank"], seen["cpus"], seen["rail"], seen["policy"]) == (local, cpus, f"{hca}:1", f"prefer:{numa}")
            # What a rank of torch holds is on its node, read from numa_maps.
            total = sum(seen["memory_bytes"].values())
            assert seen["memory_bytes"][numa] >= 0.99 * total and total > 64 << 20 and seen["threads_outside"] == 0
            # gloo is TCP: the soft-RoCE ports beside it must count nothing.
            assert seen["traffic"] == {"xmit_packets": 0, "rcv_packets": 0}
    # What crossed the wire is at least what four ranks had to send each other in the timed repeats of BF16.
    payload = 4 * REPEATS * sum(best[key]["bytes"]["off_node"] for key in (("dispatch", "bf16"), ("combine", None)))
    sent = [int(done.output.partition("SENT ")[2].split()[0]) for done in (first, second)]
    assert min(sent) > 0 and sum(sent) >= payload > 100_000, (sent, payload)
