"""A rank's way into its process group, and out of it. Needs torch."""

import atexit
import os
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn


class Place:
    """Who this rank is. DeepEP's launch contract: WORLD_SIZE counts nodes, RANK is the node rank; LOCAL_* complete it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.nodes = int(environ.get("WORLD_SIZE", "1"))
        self.node = int(environ.get("RANK", "0"))
        self.per_node = int(environ.get("EPBOX_LOCAL_RANKS", "1"))
        self.local = int(environ.get("EPBOX_LOCAL_RANK", "0"))
        self.rank = self.node * self.per_node + self.local
        self.world = self.nodes * self.per_node
        self.address = environ.get("MASTER_ADDR", "127.0.0.1")
        self.port = int(environ.get("MASTER_PORT", "8361"))


def join(place: Place, backend: str) -> str:
    """Start the process group and return the device. The store is made by hand: the libuv one is broken in some builds of torch."""
    import torch
    import torch.distributed as dist

    wait = timedelta(seconds=float(os.environ.get("EPBOX_JOIN_TIMEOUT", "120")))
    device = "cpu"
    extra: dict[str, Any] = {}
    if backend == "nccl":
        device = f"cuda:{place.local}"
        torch.cuda.set_device(place.local)
        extra["device_id"] = torch.device(device)
    else:
        # Ranks that share cores must not spin on each other's threads.
        share = (os.cpu_count() or 1) // place.per_node
        torch.set_num_threads(max(1, min(len(os.sched_getaffinity(0)), share)))
    store = dist.TCPStore(place.address, place.port, place.world, place.rank == 0, timeout=wait, use_libuv=False)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world, timeout=wait, **extra)
    return device


def leave(code: int) -> NoReturn:
    """End this process with no process group taken down.

    ~ProcessGroupGloo joins its threads with the GIL held, while one of them may need the GIL to drop the last tensor of
    its last work (torch 2.6): destroy_process_group, and the interpreter's own end, then wait for ever. A group whose
    peers are lost may wait as well.
    """
    with suppress(Exception):
        # What the launcher registered: evidence of where the pages were.
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
