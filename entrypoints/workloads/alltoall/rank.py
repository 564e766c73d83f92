"""The rank program of the alltoall workload: join, check every mode, time, check what was timed, report. Needs torch."""

import argparse
import atexit
import itertools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist

from entrypoints.errors import ExitCode
from entrypoints.facts.ports import MASTER_PORT
from entrypoints.logs.alltoall import MARK
from entrypoints.results.codec import encode
from entrypoints.results.model import Best, Correctness, Run
from entrypoints.workloads.alltoall import tensors
from entrypoints.workloads.alltoall.check import Checker
from entrypoints.workloads.alltoall.reference import Routing
from entrypoints.workloads.alltoall.tensors import Tensor
from entrypoints.workloads.alltoall.timing import FP8_FACTOR, Volume, gbps, summarise

#: Fault injection for tests: "dispatch:RANK", "combine:RANK", "topk:RANK" or "timed:RANK" damages one element there.
CORRUPT = "EPBOX_ALLTOALL_CORRUPT"
#: About one millisecond on current GPUs.
SLEEP_CYCLES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the rank program; the defaults are a small run on CPUs."""

    backend: str = "gloo"
    num_tokens: int = 256
    hidden: int = 1024
    num_topk: int = 4
    num_experts: int = 32
    num_topk_groups: int = 1
    seed: int = 0
    warmup: int = 3
    repeats: int = 15

    @classmethod
    def parse(cls) -> "Settings":
        """Settings of this process's command line. Ends the process with exit code 2 when they are wrong."""
        parser = argparse.ArgumentParser(prog="alltoall", description="rank program of the alltoall workload", allow_abbrev=False)
        for name, default in vars(cls()).items():
            choices = ("gloo", "nccl") if name == "backend" else None
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, choices=choices)
        return cls(**vars(parser.parse_args()))


class Member:
    """A rank's position. DeepEP's launch contract: WORLD_SIZE counts nodes, RANK is the node rank; EPBOX_LOCAL_* complete it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.nodes = int(environ.get("WORLD_SIZE", "1"))
        self.node_rank = int(environ.get("RANK", "0"))
        self.ranks_per_node = int(environ.get("EPBOX_LOCAL_RANKS", "1"))
        self.local_rank = int(environ.get("EPBOX_LOCAL_RANK", "0"))
        self.rank = self.node_rank * self.ranks_per_node + self.local_rank
        self.world = self.nodes * self.ranks_per_node
        self.master_addr = environ.get("MASTER_ADDR", "127.0.0.1")
        self.master_port = int(environ.get("MASTER_PORT", MASTER_PORT))


def join(member: Member, backend: str) -> str:
    """Start the process group and return the device. The store is made by hand: the libuv one is broken in some builds of torch."""
    wait = timedelta(seconds=float(os.environ.get("EPBOX_JOIN_TIMEOUT", "120")))
    device = "cpu"
    extra: dict[str, Any] = {}
    if backend == "nccl":
        device = f"cuda:{member.local_rank}"
        torch.cuda.set_device(member.local_rank)
        extra["device_id"] = torch.device(device)
    else:
        # Ranks that share cores must not spin on each other's threads.
        share = (os.cpu_count() or 1) // member.ranks_per_node
        torch.set_num_threads(max(1, min(len(os.sched_getaffinity(0)), share)))
    store = dist.TCPStore(member.master_addr, member.master_port, member.world, member.rank == 0, timeout=wait, use_libuv=False)
    dist.init_process_group(backend, store=store, rank=member.rank, world_size=member.world, timeout=wait, **extra)
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


class Operation(NamedTuple):
    """A timed step; `dtype` is None where it makes no difference."""

    op: str
    dtype: str | None = None


NOTIFY = Operation("notify")
DISPATCH_FP8, DISPATCH_BF16, COMBINE = Operation("dispatch", "fp8"), Operation("dispatch", "bf16"), Operation("combine")


@dataclass(frozen=True)
class Measured:
    """Times of all ranks (microseconds, by rank and repeat), the mean bytes of a rank, and what the timed calls have received."""

    times: dict[Operation, list[list[float]]]
    volume: Volume
    received_fp8: Tensor
    received_bf16: Tensor
    combined: Tensor


class Program:
    """One rank's run. Rank 0 speaks for all."""

    def __init__(self, settings: Settings, member: Member) -> None:
        self.settings, self.member = settings, member
        self.device = join(member, settings.backend)
        self.routing = Routing(member.nodes, member.world, settings.num_experts, settings.num_topk, settings.num_topk_groups)
        self.codec = tensors.pick_codec(self.device)
        self.say(
            f"[alltoall] {settings.num_tokens} tokens x {settings.hidden}, top-{settings.num_topk} of {settings.num_experts} experts in "
            f"{settings.num_topk_groups} node group(s), {member.world} ranks on {member.nodes} node(s), "
            f"{settings.backend}, torch {torch.__version__}"
        )
        if self.codec.emulated:
            self.say(f"[alltoall] 8-bit payload is {self.codec.name}")
        self.source = tensors.make_source(self.routing, settings.seed, member.rank, settings.num_tokens, settings.hidden, self.device)
        self.encoded = self.codec.encode(self.source.x)
        self.checker = Checker(self.routing, settings.seed, member.rank, settings.num_tokens, settings.hidden, self.device, self.codec)
        self.checker.routes(self.source)
        self.handle = tensors.make_handle(self.source)

    def say(self, text: str, end: str = "\n") -> None:
        if self.member.rank == 0:
            print(text, end=end, flush=True)

    def run(self) -> int:
        """Check and measure; the exit code."""
        cases = 0
        for packed, with_topk, wait in itertools.product((False, True), (False, True), (True, False)):
            name = f"{'FP8' if packed else 'BF16'}, {'with' if with_topk else 'without'} top-k (async={not wait})"
            self.say(f"[alltoall] testing {name} ...", end="")
            self.check_mode(name, packed, with_topk, wait)
            if failures := self.all_failures():
                self.say(" failed")
                return self.wrong(failures)
            cases += 1
            self.say(" passed")
        measured = self.measure()
        self.check_timed(measured)
        if failures := self.all_failures():
            return self.wrong(failures)
        checked = torch.tensor([self.checker.checked_rows, self.checker.checked_tokens], dtype=torch.int64, device=self.device)
        dist.all_reduce(checked)
        if self.member.rank == 0:
            self.report(measured, cases, *(int(count) for count in checked.tolist()))
        dist.barrier()
        if self.settings.backend == "nccl":
            dist.destroy_process_group()
        return ExitCode.OK

    def check_mode(self, name: str, packed: bool, with_topk: bool, wait: bool) -> None:
        """Dispatch twice, combine, and check what came: in one type, with or without top-k, blocking or not."""
        rows_sent = self.encoded if packed else self.source.x
        tokens = self.settings.num_tokens
        received = tensors.forward(rows_sent, self.handle, wait=wait)
        self.damage(received, "dispatch")
        topk = tensors.forward_topk(self.source, self.routing, self.handle, wait) if with_topk else None
        if topk is not None:
            self.damage(topk.experts, "topk")
        # A second dispatch on the same handle must give the same rows, as DeepEP's cached dispatch.
        again = tensors.forward(rows_sent, self.handle, wait=wait)
        self.checker.received(name, received, self.handle, packed, topk)
        if not torch.equal(again, received):
            self.checker.fail(f"{name}: a cached dispatch differs from the first")
        rows = self.codec.decode(received, self.settings.hidden) if packed else received
        combined = tensors.combine(rows, self.handle, tokens, wait=wait)
        self.damage(combined, "combine")
        self.checker.combined(name, combined, self.source, packed)
        if topk is not None:
            self.checker.weights(name, tensors.combine_weights(topk.weights, self.handle, tokens), self.source)
            if not packed:
                experts = topk.experts + self.member.rank * self.routing.experts_per_rank
                share = (topk.weights * tensors.gains(experts)).sum(dim=1, keepdim=True)
                processed = (rows.to(torch.float32) * share).to(torch.bfloat16)
                self.checker.weighted(name, tensors.combine(processed, self.handle, tokens, wait=wait), self.source)

    def measure(self) -> Measured:
        """Time notify, dispatch (FP8, BF16) and combine; gather every rank's times and bytes."""
        settings, member, source, handle = self.settings, self.member, self.source, self.handle
        received_fp8 = self.encoded.new_empty((handle.incoming, self.encoded.shape[1]))
        received_bf16 = source.x.new_empty((handle.incoming, settings.hidden))
        returned = source.x.new_empty((len(handle.order), settings.hidden))
        combined = source.x

        def run_combine() -> None:
            nonlocal combined
            combined = tensors.combine(received_bf16, handle, settings.num_tokens, returned)

        calls: dict[Operation, Callable[[], Any]] = {
            NOTIFY: lambda: tensors.exchange_counts(source),
            DISPATCH_FP8: lambda: tensors.forward(self.encoded, handle, received_fp8),
            DISPATCH_BF16: lambda: tensors.forward(source.x, handle, received_bf16),
            COMBINE: run_combine,
        }
        times = {operation: self.time_call(call) for operation, call in calls.items()}
        token = settings.hidden * 2
        off_node = sum(count for peer, count in enumerate(handle.sent) if peer // member.ranks_per_node != member.node_rank)
        volume = Volume(rdma=int(source.in_node.sum()) * token, nvl=handle.incoming * token, wire=off_node * token)
        by_rank: list[Any] = [None] * member.world
        dist.all_gather_object(by_rank, (list(times.values()), volume))
        volumes = [volume for _, volume in by_rank]
        mean = Volume(*(sum(getattr(volume, name) for volume in volumes) / member.world for name in ("rdma", "nvl", "wire")))
        all_times = {operation: [times[i] for times, _ in by_rank] for i, operation in enumerate(calls)}
        return Measured(all_times, mean, received_fp8, received_bf16, combined)

    def time_call(self, call: Callable[[], Any]) -> list[float]:
        """Microseconds of each repeat on this rank: by CUDA events on GPUs, by the monotonic clock on CPUs."""
        times = []
        for i in range(self.settings.warmup + self.settings.repeats):
            # Ranks start each repeat together, so that waiting for a late peer is not taken for transfer.
            dist.barrier()
            if self.device.startswith("cuda"):
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
            if i >= self.settings.warmup:
                times.append(elapsed)
        return times

    def check_timed(self, measured: Measured) -> None:
        """Check what the timed calls have received last."""
        for rows, packed in ((measured.received_fp8, True), (measured.received_bf16, False)):
            self.damage(rows, "timed")
            self.checker.received(f"timed dispatch ({'FP8' if packed else 'BF16'})", rows, self.handle, packed, None)
        self.damage(measured.combined, "timed")
        self.checker.combined("timed combine", measured.combined, self.source, False)

    def damage(self, tensor: Tensor, kind: str) -> None:
        """Fault injection (see CORRUPT): one element of one rank."""
        if os.environ.get(CORRUPT) == f"{kind}:{self.member.rank}" and tensor.numel():
            flat = tensor.view(-1)
            flat[flat.numel() // 2] += 1

    def all_failures(self) -> list[str]:
        """Failures of all ranks, on all ranks."""
        by_rank: list[Any] = [None] * self.member.world
        dist.all_gather_object(by_rank, self.checker.failures)
        return [failure for failures in by_rank for failure in failures]

    def wrong(self, failures: list[str]) -> int:
        """Every rank knows, one prints; all leave with the exit code of wrong numbers."""
        if self.member.rank == 0:
            print(MARK + json.dumps({"correctness": {"passed": False, "failures": failures[:20], "failed": len(failures)}}), flush=True)
            for failure in failures[:5]:
                print(f"[alltoall] wrong numbers: {failure}", file=sys.stderr, flush=True)
        dist.barrier()
        return ExitCode.WRONG_NUMBERS

    def report(self, measured: Measured, cases: int, rows: int, tokens: int) -> None:
        """Print people's lines, then the one line for machines."""
        notify_us = summarise(measured.times[NOTIFY]).median
        best = []
        print("", flush=True)
        for operation in (DISPATCH_FP8, DISPATCH_BF16, COMBINE):
            op, dtype = operation
            per_rank = measured.times[operation]
            us = summarise(per_rank)
            volume = measured.volume.scaled(FP8_FACTOR if dtype == "fp8" else 1.0)
            # Within one node nothing goes over RDMA, and DeepEP prints no such figure.
            rdma_gbps = gbps(volume.rdma, us.median) if self.member.nodes > 1 else None
            nvl_gbps = gbps(volume.nvl, us.median)
            label = f"{op} ({dtype.upper()})" if dtype else op
            over = f"{rdma_gbps:.2f} GB/s (RDMA), " if rdma_gbps is not None else ""
            print(
                f"[alltoall] {label}: {over}{nvl_gbps:.2f} GB/s (NVL), "
                f"median {us.median:.2f} us of {us.repeats} (p25 {us.p25:.2f}, p75 {us.p75:.2f}, min {us.min:.2f}, max {us.max:.2f})",
                flush=True,
            )
            best.append(
                Best(
                    op=op,
                    dtype=dtype,
                    rdma_gbps=None if rdma_gbps is None else round(rdma_gbps, 4),
                    nvl_gbps=round(nvl_gbps, 4),
                    transmit_us=us.median,
                    notify_us=notify_us if op == "dispatch" else None,
                    us=us,
                    bytes={"rdma": round(volume.rdma), "nvl": round(volume.nvl), "off_node": round(volume.wire)},
                    per_rank_us=tuple(round(sorted(repeats)[len(repeats) // 2], 3) for repeats in per_rank),
                )
            )
        run = Run(
            test="alltoall",
            format="alltoall",
            torch=str(torch.__version__),
            backend=self.settings.backend,
            fp8_emulated=self.codec.emulated,
            world=self.member.world,
            best=tuple(best),
            passed_cases=cases,
            correctness=Correctness(passed=True, cases=cases, received_tokens_checked=rows, combined_tokens_checked=tokens),
            complete=True,
        )
        print(MARK + json.dumps(encode(run)), flush=True)


def main() -> int:
    member = Member(os.environ)
    try:
        return Program(Settings.parse(), member).run()
    except (RuntimeError, ValueError) as error:
        # A lost peer shows as a long native message; the first line tells.
        print(f"[alltoall] rank {member.rank}: {str(error).splitlines()[0] if str(error) else error!r}", file=sys.stderr, flush=True)
        return 1


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
