"""The alltoall rank program in a Python where taking down a process group never ends (see alltoall.rank.leave). Needs torch."""

import runpy
import time

import torch.distributed as dist


def never_ends(*_: object) -> None:
    time.sleep(1000)


class LikeAGroup:
    """Destroyed by the interpreter's own end, as the default group is."""

    def __del__(self) -> None:
        never_ends()


dist.destroy_process_group = never_ends
dist.like_a_group = LikeAGroup()  # type: ignore[attr-defined]
runpy.run_module("entrypoints.workloads.alltoall.rank", run_name="__main__", alter_sys=True)
