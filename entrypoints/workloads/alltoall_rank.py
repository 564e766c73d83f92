"""The rank program of the alltoall workload: join, check every mode, time, check what was timed, report. Needs torch."""

import argparse
import atexit
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

from entrypoints.results.alltoall import MARK
from entrypoints.workloads.reference import Routing
from entrypoints.workloads.timing import FP8_FACTOR, Times, Volume, gbps, summarise

#: Fault injection for tests: "dispatch:RANK", "combine:RANK", "topk:RANK" or "timed:RANK" damages one element there.
CORRUPT = "EPBOX_ALLTOALL_CORRUPT"
WRONG_NUMBERS = 6
#: About one millisecond on current GPUs.
SLEEP_CYCLES = 2_000_000


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="alltoall", description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo")
    for name, default in (("num-tokens", 256), ("hidden", 1024), ("num-topk", 4), ("num-experts", 32), ("num-topk-groups", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args(argv)


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


def damage(tensor: Any, kind: str, rank: int) -> None:
    """Fault injection (see CORRUPT): one element of one rank."""
    if os.environ.get(CORRUPT) == f"{kind}:{rank}" and tensor.numel():
        flat = tensor.view(-1)
        flat[flat.numel() // 2] += 1


def run(args: argparse.Namespace, place: Place) -> int:
    import torch
    import torch.distributed as dist

    from entrypoints.workloads import alltoall_ops as ops
    from entrypoints.workloads.alltoall_check import Checker
    from entrypoints.workloads.alltoall_data import gains, make_source, pick_codec

    device = join(place, args.backend)
    leader = place.rank == 0

    def say(text: str, end: str = "\n") -> None:
        if leader:
            print(text, end=end, flush=True)

    routing = Routing(place.nodes, place.world, args.num_experts, args.num_topk, args.num_topk_groups)
    codec = pick_codec(device)
    say(
        f"[alltoall] {args.num_tokens} tokens x {args.hidden}, top-{args.num_topk} of {args.num_experts} experts in "
        f"{args.num_topk_groups} node group(s), {place.world} ranks on {place.nodes} node(s), {args.backend}, torch {torch.__version__}"
    )
    if codec.emulated:
        say(f"[alltoall] 8-bit payload is {codec.name}")
    source = make_source(routing, args.seed, place.rank, args.num_tokens, args.hidden, device)
    encoded = codec.encode(source.x)
    checker = Checker(routing, args.seed, place.rank, args.num_tokens, args.hidden, device, codec)
    checker.routes(source)
    handle = ops.make_handle(source)

    def agree() -> list[str]:
        """Failures of all ranks, on all ranks."""
        gathered: list[Any] = [None] * place.world
        dist.all_gather_object(gathered, checker.failures)
        return [failure for failures in gathered for failure in failures]

    cases = 0
    for packed in (False, True):
        for with_topk in (False, True):
            for wait in (True, False):
                name = f"{'FP8' if packed else 'BF16'}, {'with' if with_topk else 'without'} top-k (async={not wait})"
                say(f"[alltoall] testing {name} ...", end="")
                received = ops.forward(encoded if packed else source.x, handle, wait=wait)
                damage(received, "dispatch", place.rank)
                topk = ops.forward_topk(source, routing, handle, wait) if with_topk else None
                if topk is not None:
                    damage(topk[0], "topk", place.rank)
                # A second dispatch on the same handle must give the same rows, as DeepEP's cached dispatch.
                again = ops.forward(encoded if packed else source.x, handle, wait=wait)
                checker.received(name, received, handle, packed, topk)
                if not torch.equal(again, received):
                    checker.fail(f"{name}: a cached dispatch differs from the first")
                rows = codec.decode(received, args.hidden) if packed else received
                out = ops.combine(rows, handle, args.num_tokens, wait=wait)
                damage(out, "combine", place.rank)
                checker.combined(name, out, source, packed)
                if topk is not None:
                    checker.weights(name, ops.combine_weights(topk[1], handle, args.num_tokens), source)
                    if not packed:
                        ids = topk[0] + place.rank * routing.experts_per_rank
                        share = (topk[1] * gains(ids)).sum(dim=1, keepdim=True)
                        done = (rows.to(torch.float32) * share).to(torch.bfloat16)
                        checker.weighted(name, ops.combine(done, handle, args.num_tokens, wait=wait), source)
                failures = agree()
                if failures:
                    say(" failed")
                    return wrong(failures, leader)
                cases += 1
                say(" passed")

    timed = measure(args, place, device, source, encoded, handle)
    for name, packed, rows in timed["outputs"]:
        damage(rows, "timed", place.rank)
        if name == "combine":
            checker.combined("timed combine", rows, source, False)
        else:
            checker.received(f"timed dispatch ({'FP8' if packed else 'BF16'})", rows, handle, packed, None)
    failures = agree()
    if failures:
        return wrong(failures, leader)
    checked = torch.tensor([checker.checked_rows, checker.checked_tokens], dtype=torch.int64, device=device)
    dist.all_reduce(checked)
    if leader:
        report(args, place, codec.emulated, timed, cases, [int(n) for n in checked.tolist()])
    dist.barrier()
    if args.backend == "nccl":
        dist.destroy_process_group()
    return 0


def wrong(failures: list[str], leader: bool) -> int:
    """Every rank knows, one prints; all leave with the exit code of wrong numbers."""
    import torch.distributed as dist

    if leader:
        print(MARK + json.dumps({"correctness": {"passed": False, "failures": failures[:20], "failed": len(failures)}}), flush=True)
        for failure in failures[:5]:
            print(f"[alltoall] wrong numbers: {failure}", file=sys.stderr, flush=True)
    dist.barrier()
    return WRONG_NUMBERS


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


def main() -> int:
    place = Place(dict(os.environ))
    try:
        return run(options(), place)
    except (RuntimeError, ValueError) as error:
        # A lost peer shows as a long native message; the first line tells.
        print(f"[alltoall] rank {place.rank}: {str(error).splitlines()[0] if str(error) else error!r}", file=sys.stderr, flush=True)
        return 1


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


if __name__ == "__main__":
    try:
        code = main()
    except SystemExit:
        # Options that are wrong: nothing has been joined.
        raise
    except BaseException:
        traceback.print_exc()
        code = 1
    leave(code)
