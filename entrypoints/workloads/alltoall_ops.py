"""Dispatch and combine on torch.distributed.all_to_all_single (torch; imported inside ranks only)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from entrypoints.workloads.alltoall_data import Source
from entrypoints.workloads.reference import Routing

Tensor = Any


@dataclass(frozen=True)
class Handle:
    """The layout of one dispatch; reused by combine and by cached dispatches, as DeepEP's handle is.

    `order` lists this rank's tokens in sending order (by destination, then token); `sent` and `received` are tokens per peer.
    """

    order: Tensor
    sent: list[int]
    received: list[int]

    @property
    def incoming(self) -> int:
        return sum(self.received)


def exchange_counts(source: Source) -> list[int]:
    """The notify step: how many tokens each peer will send here."""
    sent = source.in_rank.sum(dim=0)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    return [int(n) for n in received.tolist()]


def make_handle(source: Source) -> Handle:
    """Exchange the counts and fix the sending order."""
    order = source.in_rank.t().nonzero()[:, 1].contiguous()
    sent = [int(n) for n in source.in_rank.sum(dim=0).tolist()]
    return Handle(order, sent, exchange_counts(source))


def forward(rows: Tensor, handle: Handle, out: Tensor | None = None, wait: bool = True) -> Tensor:
    """Send one row per (destination, token), a token at most once a rank; rows arrive ordered by source rank, then token."""
    packed = rows.index_select(0, handle.order)
    return _swap(packed, handle.incoming, handle.received, handle.sent, out, wait)


def backward(rows: Tensor, handle: Handle, out: Tensor | None = None, wait: bool = True) -> Tensor:
    """Send every received row back to its source; rows arrive in the source's sending order."""
    return _swap(rows, len(handle.order), handle.sent, handle.received, out, wait)


def _swap(rows: Tensor, count: int, incoming: list[int], outgoing: list[int], out: Tensor | None, wait: bool) -> Tensor:
    # Bytes, whatever the type: no backend has to know FP8, and BF16 stays bit-exact.
    width = rows.shape[1] * rows.element_size()
    if out is None:
        out = rows.new_empty((count, rows.shape[1]))
    work = dist.all_to_all_single(
        out.view(torch.uint8).view(count, width), rows.contiguous().view(torch.uint8).view(-1, width), incoming, outgoing, async_op=not wait
    )
    if work is not None:
        work.wait()
    return out


def combine(rows: Tensor, handle: Handle, tokens: int, out: Tensor | None = None, wait: bool = True) -> Tensor:
    """Return received rows to their sources and sum the copies of a token in float32: BF16 in, BF16 [tokens, hidden] out."""
    returned = backward(rows, handle, out, wait)
    total = torch.zeros(tokens, rows.shape[1], dtype=torch.float32, device=rows.device)
    total.index_add_(0, handle.order, returned.to(torch.float32))
    return total.to(rows.dtype)


def forward_topk(source: Source, routing: Routing, handle: Handle, wait: bool = True) -> tuple[Tensor, Tensor]:
    """Top-k of each received token, local to this rank: expert -1 and weight 0 where a slot belongs to another rank."""
    tokens = handle.order
    destination = torch.repeat_interleave(
        torch.arange(routing.ranks, device=tokens.device), torch.tensor(handle.sent, device=tokens.device)
    ).unsqueeze(1)
    local, gates = local_topk(source.experts[tokens], source.weights[tokens], destination, routing)
    return (
        _swap(local.contiguous(), handle.incoming, handle.received, handle.sent, None, wait),
        _swap(gates.contiguous(), handle.incoming, handle.received, handle.sent, None, wait),
    )


def local_topk(experts: Tensor, weights: Tensor, rank: Any, routing: Routing) -> tuple[Tensor, Tensor]:
    """What of a token's top-k belongs to `rank` (an int, or one rank a row)."""
    mine = experts // routing.experts_per_rank == rank
    return (experts - rank * routing.experts_per_rank).masked_fill(~mine, -1), weights.masked_fill(~mine, 0.0)


def combine_weights(gates: Tensor, handle: Handle, tokens: int) -> Tensor:
    """Gate weights on their way back: each slot comes from the one rank that owns its expert."""
    returned = backward(gates, handle)
    total = torch.zeros(tokens, gates.shape[1], dtype=torch.float32, device=gates.device)
    return total.index_add_(0, handle.order, returned)
