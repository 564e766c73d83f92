"""Run an unmodified DeepEP V1 test with several ranks on one GPU: correctness only, never bandwidth.

`python rank.py shared_card.py TEST [ARGUMENTS]`: replaces, in the test's own `utils`, what needs a GPU per rank (`init_dist`, which
upstream invites its users to rewrite) and the timers. Every timer answers one second, so that no line can pass for a measurement.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import runpy
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

#: Odd ranks take another host name, which is all that makes a second node to NVSHMEM.
SPLIT_HOSTS = "EPBOX_TEST_SPLIT_HOSTS"
CLONE_NEWUTS = 0x04000000
NO_MEASUREMENT_S = 1.0
CALLS = 2


def split_hosts() -> None:
    """Before any thread exists: a UTS namespace is a thread's."""
    if os.environ.get(SPLIT_HOSTS) and int(os.environ["EPBOX_LOCAL_RANK"]) % 2:
        # os.unshare is Python 3.12.
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUTS):
            raise OSError(ctypes.get_errno(), "unshare")
        socket.sethostname(socket.gethostname() + "-b")


def init_dist(local_rank: int, num_local_ranks: int) -> tuple[int, int, ProcessGroup]:
    import torch
    import torch.distributed as dist

    where = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    # NCCL refuses two ranks on one card.
    dist.init_process_group("gloo", init_method=where, world_size=num_local_ranks, rank=local_rank)
    torch.cuda.set_device(0)
    torch.set_default_dtype(torch.bfloat16)
    torch.set_default_device("cuda")
    return dist.get_rank(), dist.get_world_size(), dist.new_group(list(range(num_local_ranks)))


def bench(
    fn: Callable[[], object], num_warmups: int = 0, num_tests: int = CALLS, post_fn: Callable[[], object] | None = None
) -> tuple[float, float, float]:
    import torch

    for _ in range(CALLS):
        fn()
        if post_fn is not None:
            post_fn()
    torch.cuda.synchronize()
    return NO_MEASUREMENT_S, NO_MEASUREMENT_S, NO_MEASUREMENT_S


def bench_kineto(
    fn: Callable[[], object], kernel_names: str | tuple[str, ...], *_: object, num_kernels_per_period: int = 1, **__: object
) -> object:
    """Seconds of a kernel, or a list of them where it runs several times a period; a list of such for several kernels."""
    bench(fn)
    one: object = [NO_MEASUREMENT_S] * num_kernels_per_period if num_kernels_per_period > 1 else NO_MEASUREMENT_S
    return [one for _ in kernel_names] if isinstance(kernel_names, tuple) else one


def gather_over_host_memory() -> None:
    """Gloo gathers no CUDA tensors."""
    import torch
    import torch.distributed as dist

    into_tensor, into_list = dist.all_gather_into_tensor, dist.all_gather

    def all_gather_into_tensor(output: Tensor, tensor: Tensor, group: ProcessGroup | None = None, **options: Any) -> None:
        # Concatenated, where the caller may have stacked: gloo takes only the former.
        rows = output.numel() // tensor[0].numel()
        host = torch.empty((rows, *tensor.shape[1:]), dtype=output.dtype, device="cpu")
        into_tensor(host, tensor.cpu(), group=group, **options)
        output.copy_(host.view(output.shape))

    def all_gather(outputs: list[Tensor], tensor: Tensor, group: ProcessGroup | None = None, **options: Any) -> None:
        hosts = [torch.empty(each.shape, dtype=each.dtype, device="cpu") for each in outputs]
        into_list(hosts, tensor.cpu(), group=group, **options)
        for output, host in zip(outputs, hosts, strict=True):
            output.copy_(host)

    dist.all_gather_into_tensor, dist.all_gather = all_gather_into_tensor, all_gather


def main() -> None:
    test, arguments = sys.argv[1], sys.argv[2:]
    split_hosts()
    sys.path.insert(0, str(Path(test).resolve().parent))
    utils: Any = importlib.import_module("utils")  # the test's own
    utils.init_dist, utils.bench, utils.bench_kineto = init_dist, bench, bench_kineto
    gather_over_host_memory()
    sys.argv = [test, *arguments]
    runpy.run_path(test, run_name="__main__")


if __name__ == "__main__":
    main()
