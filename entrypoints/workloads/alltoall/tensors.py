"""Tensors of the alltoall workload (routes, activations, weights, the FP8 codec), and their dispatch and combine on all_to_all_single.

Imported inside ranks only: it needs torch.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from entrypoints.workloads.alltoall import SCALE_GROUP, reference
from entrypoints.workloads.alltoall.reference import GOLDEN, MASK, Routing

Tensor = Any


def mix(value: Tensor) -> Tensor:
    """reference.mix on int64 tensors; products wrap at 64 bits and the low 32 bits are exact."""
    value = value & MASK
    value = value ^ (value >> 16)
    value = value * 0x7FEB352D & MASK
    value = value ^ (value >> 15)
    value = value * 0x846CA68B & MASK
    return value ^ (value >> 16)


def field(key: int, rows: int, columns: int, device: str) -> Tensor:
    """All cells of one random field, as reference.cell defines them: int64 [rows, columns]."""
    row = mix(torch.arange(rows, dtype=torch.int64, device=device) + key)
    column = torch.arange(columns, dtype=torch.int64, device=device) * GOLDEN
    return mix(row.unsqueeze(1) + column.unsqueeze(0))


@dataclass(frozen=True)
class Source:
    """The input of one rank. Any rank can rebuild any other rank's source from the seed, so every received byte can be checked.

    Activations `x` are BF16 [tokens, hidden], experts int64 and weights float32 [tokens, topk], destinations bool [tokens, ranks or nodes].
    """

    x: Tensor
    experts: Tensor
    weights: Tensor
    in_rank: Tensor
    in_node: Tensor


def make_source(routing: Routing, seed: int, rank: int, tokens: int, hidden: int, device: str) -> Source:
    """The source of one rank, the same on every device."""
    scores = field(reference.stream(seed, rank, reference.SCORES), tokens, routing.experts, device)
    scores = scores * routing.experts + torch.arange(routing.experts, dtype=torch.int64, device=device)
    grouped = scores.view(tokens, routing.nodes, -1)
    chosen = grouped.amax(dim=-1).topk(routing.groups, dim=-1).indices
    mask = torch.zeros(tokens, routing.nodes, dtype=torch.bool, device=device).scatter_(1, chosen, True)
    masked = grouped.masked_fill(~mask.unsqueeze(-1), -1).view(tokens, routing.experts)
    experts = masked.topk(routing.topk, dim=-1).indices
    to_rank = experts // routing.experts_per_rank
    in_rank = torch.zeros(tokens, routing.ranks, dtype=torch.bool, device=device).scatter_(1, to_rank, True)
    in_node = in_rank.view(tokens, routing.nodes, -1).any(dim=-1)
    values = field(reference.stream(seed, rank, reference.VALUES), tokens, hidden, device)
    x = (((values & 0xFF) - 128).to(torch.float32) / 64).to(torch.bfloat16)
    gates = field(reference.stream(seed, rank, reference.WEIGHTS), tokens, routing.topk, device)
    weights = ((gates & 0xFF) + 1).to(torch.float32) / 256
    return Source(x, experts, weights, in_rank, in_node)


def gains(experts: Tensor) -> Tensor:
    """reference.expert_gain of each expert id: float32."""
    return 0.5 + (experts * 37 % 64).to(torch.float32) / 64


@dataclass(frozen=True)
class Codec:
    """8-bit rows: `hidden` bytes of payload, then one float32 scale per 128 elements, as one byte row."""

    name: str
    emulated: bool
    limit: float

    def encode(self, x: Tensor) -> Tensor:
        """BF16 [n, hidden] -> uint8 [n, hidden + 4 * hidden / 128]."""
        rows, hidden = x.shape
        groups = x.to(torch.float32).view(rows, hidden // SCALE_GROUP, SCALE_GROUP)
        amax = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-4)
        scaled = groups * (self.limit / amax)
        payload = scaled.round().to(torch.int8) if self.emulated else scaled.to(torch.float8_e4m3fn)
        scales = (amax / self.limit).view(rows, hidden // SCALE_GROUP).contiguous()
        return torch.cat([payload.view(rows, hidden).contiguous().view(torch.uint8), scales.view(torch.uint8)], dim=1)

    def decode(self, packed: Tensor, hidden: int) -> Tensor:
        """The inverse: uint8 rows -> BF16 [n, hidden]."""
        rows = packed.shape[0]
        kind = torch.int8 if self.emulated else torch.float8_e4m3fn
        payload = packed[:, :hidden].contiguous().view(kind).to(torch.float32).view(rows, hidden // SCALE_GROUP, SCALE_GROUP)
        scales = packed[:, hidden:].contiguous().view(torch.float32).view(rows, hidden // SCALE_GROUP, 1)
        return (payload * scales).view(rows, hidden).to(torch.bfloat16)


def pick_codec(device: str) -> Codec:
    """FP8 E4M3 where this torch can cast to it on this device, else INT8 of the same byte volume, which says so."""
    try:
        probe = torch.ones(1, device=device).to(torch.float8_e4m3fn).to(torch.float32)
        if probe.item() == 1.0:
            return Codec("fp8", False, 448.0)
    except (AttributeError, RuntimeError, NotImplementedError):
        pass
    return Codec("int8 (float8 is missing here; same bytes)", True, 127.0)


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


class TopK(NamedTuple):
    """Top-k of each token, local to one rank: expert -1 and weight 0 where a slot belongs to another rank."""

    experts: Tensor
    weights: Tensor


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
    return _swap(rows.index_select(0, handle.order), handle.received, handle.sent, out, wait)


def backward(rows: Tensor, handle: Handle, out: Tensor | None = None, wait: bool = True) -> Tensor:
    """Send every received row back to its source; rows arrive in the source's sending order."""
    return _swap(rows, handle.sent, handle.received, out, wait)


def _swap(rows: Tensor, incoming: list[int], outgoing: list[int], out: Tensor | None, wait: bool) -> Tensor:
    if out is None:
        out = rows.new_empty((sum(incoming), rows.shape[1]))
    # Bytes, whatever the type: no backend has to know FP8, and BF16 stays bit-exact.
    width = rows.shape[1] * rows.element_size()
    out_bytes, row_bytes = out.view(torch.uint8).view(-1, width), rows.contiguous().view(torch.uint8).view(-1, width)
    work = dist.all_to_all_single(out_bytes, row_bytes, incoming, outgoing, async_op=not wait)
    if work is not None:
        work.wait()
    return out


def combine(rows: Tensor, handle: Handle, tokens: int, out: Tensor | None = None, wait: bool = True) -> Tensor:
    """Return received rows to their sources and sum the copies of a token in float32: BF16 in, BF16 [tokens, hidden] out."""
    returned = backward(rows, handle, out, wait)
    total = torch.zeros(tokens, rows.shape[1], dtype=torch.float32, device=rows.device)
    total.index_add_(0, handle.order, returned.to(torch.float32))
    return total.to(rows.dtype)


def forward_topk(source: Source, routing: Routing, handle: Handle, wait: bool = True) -> TopK:
    """Top-k of each received token, local to this rank."""
    tokens = handle.order
    ranks, sent = torch.arange(routing.ranks, device=tokens.device), torch.tensor(handle.sent, device=tokens.device)
    destination = torch.repeat_interleave(ranks, sent).unsqueeze(1)
    topk = local_topk(source.experts[tokens], source.weights[tokens], destination, routing)
    return TopK(*(_swap(part, handle.received, handle.sent, None, wait) for part in topk))


def local_topk(experts: Tensor, weights: Tensor, rank: int | Tensor, routing: Routing) -> TopK:
    """The part of each token's top-k that belongs to `rank` (one for all, or a tensor with one a row)."""
    elsewhere = experts // routing.experts_per_rank != rank
    return TopK((experts - rank * routing.experts_per_rank).masked_fill(elsewhere, -1), weights.masked_fill(elsewhere, 0.0))


def combine_weights(gates: Tensor, handle: Handle, tokens: int) -> Tensor:
    """Gate weights on their way back: each slot comes from the one rank that owns its expert."""
    returned = backward(gates, handle)
    total = torch.zeros(tokens, gates.shape[1], dtype=torch.float32, device=gates.device)
    return total.index_add_(0, handle.order, returned)
