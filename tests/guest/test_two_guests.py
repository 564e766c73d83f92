"""Two guests with a wire between them are two nodes: verbs traffic of a bound rank leaves by the planned rail."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.guest import machine
from tests.guest.conftest import FILES

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(900)]
States = Callable[[int], Path]
EXEC = "python3 -m entrypoints exec --workload alltoall"


def both(states: States, jobs: tuple[str, str], limit: float, files: dict[str, Path]) -> list[machine.Outcome]:
    """Run one job in each of two guests that share a wire."""
    wire = Path(tempfile.mkdtemp(prefix="epbox-wire-")) / "socket"
    try:
        with ExitStack() as stack:
            first = stack.enter_context(machine.machine(0, state=states(0), link=f"listen:{wire}"))
            first.qmp("query-status")
            second = stack.enter_context(machine.machine(1, state=states(1), link=f"connect:{wire}"))
            for guest, job in zip((first, second), jobs, strict=True):
                machine.start(guest, ". /host/gpus.sh\n" + job, files)
            return [guest.wait(limit) for guest in (first, second)]
    finally:
        shutil.rmtree(wire.parent, ignore_errors=True)


def test_a_planned_rail_carries_verbs_traffic_between_nodes(states: States) -> None:
    ping = "ibv_rc_pingpong -d $(echo $NVSHMEM_HCA_LIST | cut -d: -f1) -g 1 -n 40"
    count = "cat /sys/class/infiniband/mlx5_*/ports/1/hw_counters/sent_pkts | tr '\\n' ' '"
    rank = "export LOCAL_RANK=5 LOCAL_WORLD_SIZE=8"
    plan = "python3 -m entrypoints plan --workload alltoall --format json > plan.json\n"
    pick = 'python3 -c \'import json; print(json.load(open("plan.json"))["ranks"][5]["hca"])\''
    hca = f"NVSHMEM_HCA_LIST=$({pick}):1; export NVSHMEM_HCA_LIST\n"
    server = f"{plan}{hca}{rank}; timeout 60 {EXEC} --bind cpu,mem -- sh -c '{ping}'; code=$?; echo; echo PKTS $({count}); exit $code\n"
    client = (
        f"{plan}{hca}{rank}; for i in 1 2 3 4 5 6 7 8; do sleep 2; "
        f"{EXEC} --bind cpu,mem -- sh -c '{ping} 10.77.0.1' && break; done; code=$?; echo; echo PKTS $({count}); exit $code\n"
    )
    try:
        outcomes = both(states, (server, client), 150, FILES)
    except machine.GuestDied:
        outcomes = both(states, (server, client), 150, FILES)
    for done in outcomes:
        assert done.code == 0, done.output
        line = next(text for text in done.output.splitlines() if text.startswith("PKTS "))
        sent = [int(word) for word in line.split()[1:]]
        # Rank 5's rail and no other moved packets of the ping-pong (40 x at least four packets of 1 KiB).
        assert sent[5] > 100 and max(sent[:5] + sent[6:]) < sent[5] / 10, sent
