"""The rank program of the alltoall workload: join, check every mode, time, check what was timed, report. Needs torch."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from entrypoints.logs.alltoall import MARK
from entrypoints.workloads.alltoall_group import Place, join, leave
from entrypoints.workloads.reference import Routing

#: Fault injection for tests: "dispatch:RANK", "combine:RANK", "topk:RANK" or "timed:RANK" damages one element there.
CORRUPT = "EPBOX_ALLTOALL_CORRUPT"
WRONG_NUMBERS = 6


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="alltoall", description=__doc__, allow_abbrev=False)
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo")
    for name, default in (("num-tokens", 256), ("hidden", 1024), ("num-topk", 4), ("num-experts", 32), ("num-topk-groups", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args(argv)


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
    from entrypoints.workloads.alltoall_measure import measure, report

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


def main() -> int:
    place = Place(dict(os.environ))
    try:
        return run(options(), place)
    except (RuntimeError, ValueError) as error:
        # A lost peer shows as a long native message; the first line tells.
        print(f"[alltoall] rank {place.rank}: {str(error).splitlines()[0] if str(error) else error!r}", file=sys.stderr, flush=True)
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
