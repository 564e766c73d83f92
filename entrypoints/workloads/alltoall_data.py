"""Tensors of the alltoall workload: routes, activations, weights and the FP8 codec. Imported inside ranks only (torch)."""

from dataclasses import dataclass
from typing import Any

import torch

from entrypoints.workloads import reference
from entrypoints.workloads.reference import GOLDEN, MASK, Routing

Tensor = Any
GROUP = 128


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
    """What one rank feeds in. Any rank can rebuild any other rank's source from the seed, so every received byte can be checked."""

    x: Tensor
    experts: Tensor
    weights: Tensor
    in_rank: Tensor
    in_node: Tensor


def make_source(routing: Routing, seed: int, rank: int, tokens: int, hidden: int, device: str) -> Source:
    """Activations BF16 [tokens, hidden], experts int64 and weights float32 [tokens, topk], destinations bool [tokens, ranks|nodes]."""
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
        groups = x.to(torch.float32).view(rows, hidden // GROUP, GROUP)
        amax = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-4)
        scaled = groups * (self.limit / amax)
        payload = scaled.round().to(torch.int8) if self.emulated else scaled.to(torch.float8_e4m3fn)
        scales = (amax / self.limit).view(rows, hidden // GROUP).contiguous()
        return torch.cat([payload.view(rows, hidden).contiguous().view(torch.uint8), scales.view(torch.uint8)], dim=1)

    def decode(self, packed: Tensor, hidden: int) -> Tensor:
        """The inverse: uint8 rows -> BF16 [n, hidden]."""
        rows = packed.shape[0]
        kind = torch.int8 if self.emulated else torch.float8_e4m3fn
        payload = packed[:, :hidden].contiguous().view(kind).to(torch.float32).view(rows, hidden // GROUP, GROUP)
        scales = packed[:, hidden:].contiguous().view(torch.float32).view(rows, hidden // GROUP, 1)
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
