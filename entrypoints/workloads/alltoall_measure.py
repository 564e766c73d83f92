"""What the alltoall ranks time, and how they say it. Needs torch."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from entrypoints.logs.alltoall import MARK
from entrypoints.workloads.alltoall_group import Place
from entrypoints.workloads.timing import FP8_FACTOR, Times, Volume, gbps, summarise

#: About one millisecond on current GPUs.
SLEEP_CYCLES = 2_000_000


class Clock:
    """Times one call on this rank in microseconds: CUDA events on GPUs, the monotonic clock on CPUs."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def measure(self, call: Callable[[], Any], warmup: int, repeats: int) -> list[float]:
        import torch
        import torch.distributed as dist

        times = []
        for i in range(warmup + repeats):
            # Ranks start each repeat together, so that waiting for a late peer is not taken for transfer.
            dist.barrier()
            if self.cuda:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                # The card idles while the calls are queued, so that launching from Python is not taken for transfer.
                torch.cuda._sleep(SLEEP_CYCLES)
                begin.record()
                call()
                end.record()
                torch.cuda.synchronize()
                elapsed = begin.elapsed_time(end) * 1e3
            else:
                start = time.perf_counter()
                call()
                elapsed = (time.perf_counter() - start) * 1e6
            if i >= warmup:
                times.append(elapsed)
        return times


def measure(args: argparse.Namespace, place: Place, device: str, source: Any, encoded: Any, handle: Any) -> dict[str, Any]:
    """Time notify, dispatch (FP8, BF16) and combine; gather every rank's times and bytes."""
    import torch.distributed as dist

    from entrypoints.workloads import alltoall_ops as ops

    clock = Clock(device)
    received8 = encoded.new_empty((handle.incoming, encoded.shape[1]))
    received16 = source.x.new_empty((handle.incoming, args.hidden))
    back = source.x.new_empty((len(handle.order), args.hidden))
    combined = source.x
    calls: list[tuple[str, str | None, Callable[[], Any]]] = [
        ("notify", None, lambda: ops.exchange_counts(source)),
        ("dispatch", "fp8", lambda: ops.forward(encoded, handle, received8)),
        ("dispatch", "bf16", lambda: ops.forward(source.x, handle, received16)),
    ]
    times: dict[tuple[str, str | None], list[float]] = {}
    for op, dtype, call in calls:
        times[op, dtype] = clock.measure(call, args.warmup, args.repeats)

    def run_combine() -> None:
        nonlocal combined
        combined = ops.combine(received16, handle, args.num_tokens, back)

    times["combine", None] = clock.measure(run_combine, args.warmup, args.repeats)
    token = args.hidden * 2
    sent_off_node = sum(n for peer, n in enumerate(handle.sent) if peer // place.per_node != place.node)
    mine = {
        "times": list(times.values()),
        "rdma": int(source.in_node.sum()) * token,
        "nvl": handle.incoming * token,
        "wire": sent_off_node * token,
    }
    gathered: list[Any] = [None] * place.world
    dist.all_gather_object(gathered, mine)
    summary: dict[tuple[str, str | None], Times] = {key: summarise([peer["times"][i] for peer in gathered]) for i, key in enumerate(times)}
    volume = Volume(*(sum(peer[name] for peer in gathered) / place.world for name in ("rdma", "nvl", "wire")))
    outputs = [("dispatch", True, received8), ("dispatch", False, received16), ("combine", False, combined)]
    return {"times": summary, "volume": volume, "outputs": outputs, "per_rank": gathered, "keys": list(times)}


def report(args: argparse.Namespace, place: Place, emulated: bool, timed: dict[str, Any], cases: int, checked: list[int]) -> None:
    """People's lines, then the one line for machines."""
    import torch

    notify: Times = timed["times"]["notify", None]
    best = []
    print("", flush=True)
    for op, dtype in timed["keys"]:
        if op == "notify":
            continue
        times: Times = timed["times"][op, dtype]
        volume: Volume = timed["volume"].scaled(FP8_FACTOR if dtype == "fp8" else 1.0)
        index = timed["keys"].index((op, dtype))
        label = f"{op} ({dtype.upper()})" if dtype else op
        # Within one node nothing goes over RDMA, and DeepEP prints no such figure.
        rdma = gbps(volume.rdma, times.median) if place.nodes > 1 else None
        nvl = gbps(volume.nvl, times.median)
        over = f"{rdma:.2f} GB/s (RDMA), " if rdma is not None else ""
        print(
            f"[alltoall] {label}: {over}{nvl:.2f} GB/s (NVL), "
            f"median {times.median:.2f} us of {times.repeats} (p25 {times.p25:.2f}, p75 {times.p75:.2f}, "
            f"min {times.min:.2f}, max {times.max:.2f})",
            flush=True,
        )
        best.append(
            {
                "op": op,
                "dtype": dtype,
                "sms": None,
                "nvl_chunk": None,
                "rdma_chunk": None,
                "rdma_gbps": None if rdma is None else round(rdma, 4),
                "nvl_gbps": round(nvl, 4),
                "transmit_us": round(times.median, 3),
                "notify_us": round(notify.median, 3) if op == "dispatch" else None,
                "us": times.to_json(),
                "bytes": {"rdma": round(volume.rdma), "nvl": round(volume.nvl), "off_node": round(volume.wire)},
                "per_rank_us": [round(sorted(peer["times"][index])[len(peer["times"][index]) // 2], 3) for peer in timed["per_rank"]],
            }
        )
    record = {
        "test": "alltoall",
        "torch": str(torch.__version__),
        "backend": args.backend,
        "fp8_emulated": emulated,
        "world": place.world,
        "best": best,
        "passed_cases": cases,
        "correctness": {"passed": True, "cases": cases, "received_tokens_checked": checked[0], "combined_tokens_checked": checked[1]},
        "complete": True,
    }
    print(MARK + json.dumps(record), flush=True)
