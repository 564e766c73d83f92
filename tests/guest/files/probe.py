"""A rank that reports where it was born: threads' CPUs, and the nodes of 40 MB that it touches first. One JSON line on stdout."""

import ctypes
import json
import mmap
import os
import re
import sys
import threading
from pathlib import Path

MIB = int(sys.argv[1]) if len(sys.argv) > 1 else 40


def pages_by_node(address: int) -> dict[str, int]:
    """Pages per node of the mapping around `address`; the kernel may have merged ours with a neighbour below."""
    lines = [line for line in Path("/proc/self/numa_maps").read_text().splitlines() if int(line.split(None, 1)[0], 16) <= address]
    return {node: int(count) for node, count in re.findall(r"\bN(\d+)=(\d+)", lines[-1])}


area = mmap.mmap(-1, MIB << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(2)]
for thread in threads:
    thread.start()
for offset in range(0, MIB << 20, 4096):
    area[offset] = 1
view = ctypes.c_char.from_buffer(area)
found = pages_by_node(ctypes.addressof(view))
mems = re.search(r"Mems_allowed_list:\s*(\S+)", Path("/proc/self/status").read_text())
assert mems is not None, "/proc/self/status has no Mems_allowed_list: a kernel without cpusets"
report = {
    "rank": int(os.environ["LOCAL_RANK"]),
    "cpus": sorted(os.sched_getaffinity(0)),
    "threads": [sorted(os.sched_getaffinity(int(task.name))) for task in Path("/proc/self/task").iterdir()],
    "pages": found,
    "mems_allowed": mems[1],
    "hca": os.environ.get("NVSHMEM_HCA_LIST"),
}
done.set()
print("PROBE " + json.dumps(report), flush=True)
