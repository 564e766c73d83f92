"""doctor on a real kernel with soft-RoCE HCAs: libibverbs opens them, memory registers, and a queue pair reaches itself."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.guest.machine import Outcome

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(1800)]
Guest = Callable[..., Outcome]


def documents(output: str) -> list[dict[str, dict[str, Any]]]:
    """The results of every JSON document that the job printed, by their ids."""
    found: list[dict[str, dict[str, Any]]] = []
    for part in output.split("=== json\n")[1:]:
        document = json.loads(part.partition("=== end")[0])
        found.append({result["id"]: result for result in [*document["checks"], *document["probes"]]})
    return found


def doctor(options: str = "", before: str = "") -> str:
    # An emulated machine on a busy host is far slower than any host of a user.
    return (
        f"echo '=== json'; {before} python3 -m entrypoints doctor --for deepep-v1 --timeout 120 --format json {options}; echo '=== end'\n"
    )


def test_soft_roce_is_probed_for_real_and_a_broken_port_is_found(guest: Guest) -> None:
    """Two looks at one guest: as it booted, then with a link down, a small MTU, and 64 KiB to lock without the capability."""
    unprivileged = "setpriv --bounding-set -ipc_lock,-sys_resource --inh-caps -all prlimit --memlock=65536 --"
    done = guest(
        doctor("--probe") + "ip link set $(cat /sys/class/infiniband/mlx5_3/parent) down\n"
        "ip link set $(cat /sys/class/infiniband/mlx5_5/parent) mtu 600\nsleep 1\n" + doctor("--probe", unprivileged),
        limit=1500,
    )
    whole, broken = documents(done.output)
    expected = [
        (whole, "probe.hca.open", "PASS", "mlx5_7"),
        (whole, "probe.hca.atomics", "PASS", "mlx5_7 HCA"),
        (whole, "probe.hca.memlock", "PASS", "64 MiB registered with 8 HCAs"),
        (whole, "probe.hca.loopback", "PASS", "mlx5_7"),
        (whole, "probe.hca.mtu", "WARN", "mlx5_7:1 1024"),
        (whole, "rail.gid", "PASS", "mlx5_7: 1"),
        (whole, "hca.width", "WARN", "mlx5_0 1X"),
        (whole, "hca.driver", "FAIL", "rdma_rxe"),
        (whole, "rail.mtu", "WARN", "MTU 1500 on all 8 rails"),
        (whole, "numa.affinity", "PASS", "2 NUMA nodes"),
        (whole, "gpu.devices", "FAIL", "8 GPUs on the bus, but no /dev/nvidiactl"),
        (whole, "container.memlock", "PASS", "CAP_IPC_LOCK"),
        (broken, "hca.ports", "WARN", "mlx5_3 (DOWN)"),
        (broken, "rail.mtu", "WARN", "600"),
        (broken, "probe.hca.mtu", "WARN", "differs"),
        (broken, "container.memlock", "FAIL", "64 KiB"),
        (broken, "probe.hca.memlock", "FAIL", "cannot allocate memory"),
    ]
    wrong = [
        (id, look[id]["status"], look[id]["evidence"])
        for look, id, status, word in expected
        if (look[id]["status"], word in look[id]["evidence"]) != (status, True)
    ]
    assert wrong == []
