"""Every received byte and every combined token against a locally computed reference (torch; imported inside ranks only)."""

from typing import NamedTuple

import torch

from entrypoints.workloads.alltoall import reference
from entrypoints.workloads.alltoall.reference import Routing
from entrypoints.workloads.alltoall.tensors import Codec, Handle, Source, Tensor, TopK, gains, local_topk, make_source

#: DeepEP's own bounds for combine(dispatch(x)) against x, on its similarity measure (tests/test_internode.py).
LIMIT_BF16, LIMIT_FP8, LIMIT_WEIGHTS = 5e-6, 5e-4, 1e-9
#: Relative error of one rounding to BF16 (8 significant bits), with a little for the float32 sum before it.
BF16_BOUND = 1.01 * 2.0**-8
#: Tokens a run whose routes are recomputed in plain Python.
SAMPLE = 4


def difference(x: Tensor, y: Tensor) -> float:
    """DeepEP's measure: one minus the cosine-like similarity of the values shifted by one; 0 is equal."""
    x, y = x.double() + 1, y.double() + 1
    return float(1 - 2 * (x * y).sum() / (x * x + y * y).sum())


class WrongRows(NamedTuple):
    """The number of rows that are wrong, and the first of them (-1 for none)."""

    number: int
    first: int


def wrong_rows(wrong: Tensor) -> WrongRows:
    """The rows of a bool matrix or vector that hold a true element."""
    rows = wrong.reshape(wrong.shape[0], -1).any(dim=1).nonzero()
    return WrongRows(len(rows), int(rows[0, 0]) if len(rows) else -1)


class Checker:
    """Checks of one rank; `failures` collects sentences that name rank, source and token."""

    def __init__(self, routing: Routing, seed: int, rank: int, tokens: int, hidden: int, device: str, codec: Codec) -> None:
        self.routing, self.seed, self.rank = routing, seed, rank
        self.tokens, self.hidden, self.device, self.codec = tokens, hidden, device, codec
        self.failures: list[str] = []
        self.checked_rows = 0
        self.checked_tokens = 0

    def fail(self, text: str) -> None:
        self.failures.append(f"rank {self.rank}: {text}")

    def routes(self, source: Source) -> None:
        """Compare the tensor code's routes of a few tokens with the plain definition."""
        key = reference.stream(self.seed, self.rank, reference.SCORES)
        for token in sorted({self.tokens * i // SAMPLE for i in range(SAMPLE)}):
            experts = reference.token_experts(self.routing, key, token)
            ranks = reference.token_ranks(self.routing, experts)
            routed = tuple(int(i) for i in source.experts[token].tolist())
            sent_to = tuple(int(i) for i in source.in_rank[token].nonzero()[:, 0].tolist())
            if routed != experts or sent_to != ranks:
                self.fail(f"token {token} is routed to experts {routed} on ranks {sent_to}, by definition {experts} on {ranks}")

    def received(self, name: str, rows: Tensor, handle: Handle, packed: bool, topk: TopK | None) -> None:
        """Rebuild every source's tokens for this rank and compare bit for bit."""
        start = 0
        for sender in range(self.routing.ranks):
            source = make_source(self.routing, self.seed, sender, self.tokens, self.hidden, self.device)
            tokens = source.in_rank[:, self.rank].nonzero()[:, 0]
            if len(tokens) != handle.received[sender]:
                self.fail(f"{name}: {handle.received[sender]} tokens announced by rank {sender}, expected {len(tokens)}")
                return
            end = start + len(tokens)
            expected = self.codec.encode(source.x[tokens]) if packed else source.x[tokens].view(torch.int16)
            received = rows[start:end] if packed else rows[start:end].view(torch.int16)
            count, first = wrong_rows(received != expected)
            if count:
                self.fail(f"{name}: {count} of {len(tokens)} tokens from rank {sender} differ, the first is its token {int(tokens[first])}")
            if topk is not None:
                local = local_topk(source.experts[tokens], source.weights[tokens], self.rank, self.routing)
                count, first = wrong_rows((topk.experts[start:end] != local.experts) | (topk.weights[start:end] != local.weights))
                if count:
                    self.fail(f"{name}: top-k of {count} tokens from rank {sender} differs, the first is its token {int(tokens[first])}")
            start = end
        self.checked_rows += start

    def combined(self, name: str, out: Tensor, source: Source, packed: bool) -> float:
        """DeepEP's measure of combine(dispatch(x)), which must be x times the number of ranks it went to: by that, and per token."""
        copies = source.in_rank.sum(dim=1, keepdim=True).to(torch.float32)
        sent = self.codec.decode(self.codec.encode(source.x), self.hidden) if packed else source.x
        expected = sent.to(torch.float32) * copies
        # Copies of one token are equal, so float32 holds their sum exactly: only the result is rounded.
        self._tokens(name, out, expected, 1)
        measure = difference(out.to(torch.float32) / copies, source.x)
        limit = LIMIT_FP8 if packed else LIMIT_BF16
        if not measure < limit:
            self.fail(f"{name}: combine(dispatch(x)) differs from x by {measure:.2e}, limit {limit:.0e}")
        return measure

    def weighted(self, name: str, out: Tensor, source: Source) -> None:
        """A complete MoE step: each token times the sum over its experts of gate weight and that expert's gain."""
        factor = (source.weights * gains(source.experts)).sum(dim=1, keepdim=True)
        expected = source.x.to(torch.float32) * factor
        # All parts have the token's sign: each part is rounded once, and their sum once more.
        self._tokens(name, out, expected, 2)

    def weights(self, name: str, out: Tensor, source: Source) -> None:
        """Combined gate weights are the ones that were sent."""
        measure = difference(out, source.weights)
        if not measure < LIMIT_WEIGHTS:
            count, token = wrong_rows(out != source.weights)
            self.fail(f"{name}: gate weights of {count} tokens differ after combine, the first is token {token}")

    def _tokens(self, name: str, out: Tensor, expected: Tensor, roundings: int) -> None:
        wrong = ~((out.to(torch.float32) - expected).abs() <= roundings * BF16_BOUND * expected.abs())
        count, token = wrong_rows(wrong)
        if count:
            column = int(wrong[token].nonzero()[0, 0])
            self.fail(
                f"{name}: {count} of {len(out)} combined tokens are wrong; token {token}, element {column} is "
                f"{float(out[token, column]):.6g}, expected {float(expected[token, column]):.6g}"
            )
        self.checked_tokens += len(out)
