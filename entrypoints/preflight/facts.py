"""What of a host must be equal on every node of a job: one small record per node."""

from typing import Any

from entrypoints.preflight.libraries import package_version
from entrypoints.preflight.model import Host

SCHEMA = "epbox.facts/1"
PACKAGES = (
    ("deep_ep", r"deep_ep"),
    ("torch", r"torch"),
    ("nvshmem", r"nvidia_nvshmem_cu\d+"),
    ("nccl", r"nvidia_nccl_cu\d+"),
    ("cuda_runtime", r"nvidia_cuda_runtime(_cu\d+)?"),
)


def host_facts(host: Host) -> dict[str, Any]:
    """Kernel, driver, GPUs, HCAs, MTU, libraries and image lock of one host; unknown is null."""
    import hashlib
    import re

    driver = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", host.files.maybe("proc/driver/nvidia/version") or "")
    lock = host.files.maybe("opt/epbox/lock.json")
    packages = {name: package_version(host, pattern) for name, pattern in PACKAGES}
    return {
        "schema": SCHEMA,
        "hostname": host.files.maybe("proc/sys/kernel/hostname") or host.topology.hostname,
        "kernel": host.files.maybe("proc/sys/kernel/osrelease"),
        "driver": driver[1] if driver else None,
        "cpus": len(host.topology.cpus),
        "numa_nodes": len(host.topology.numa_nodes),
        "gpus": [gpu.name for gpu in host.topology.gpus],
        "hcas": [
            {
                "name": hca.id,
                "driver": hca.driver,
                "firmware": hca.firmware,
                "board": hca.board,
                "link_layer": port.link_layer,
                "rate_gbps": port.rate_gbps,
                "mtu": host.files.number(f"sys/class/net/{port.netdev}/mtu") if port.netdev else None,
            }
            for hca, port in host.fabric()
        ],
        "packages": {name: found[1] if found else None for name, found in packages.items()},
        "lock": hashlib.sha256(lock.encode()).hexdigest() if lock else None,
        "numa_balancing": host.files.maybe("proc/sys/kernel/numa_balancing"),
    }
