"""Run by a Python that has torch: the tensor code against the plain definition. Prints one JSON object of what it compared."""

import json
import sys

import torch

from entrypoints.workloads.alltoall import reference
from entrypoints.workloads.alltoall.check import LIMIT_BF16, LIMIT_FP8, Checker, difference
from entrypoints.workloads.alltoall.reference import Routing
from entrypoints.workloads.alltoall.tensors import Codec, field, gains, local_topk, make_source, pick_codec
from tests.helpers import alltoall_definition


def routes() -> int:
    compared = 0
    shapes = [Routing(1, 1, 4, 2, 1), Routing(1, 3, 12, 4, 1), Routing(2, 4, 32, 4, 2), Routing(4, 8, 64, 8, 2), Routing(2, 16, 256, 8, 1)]
    for seed, routing in enumerate(shapes):
        for rank in range(min(routing.ranks, 3)):
            source = make_source(routing, seed, rank, 20, 128, "cpu")
            key = reference.stream(seed, rank, reference.SCORES)
            values, weights = reference.stream(seed, rank, reference.VALUES), reference.stream(seed, rank, reference.WEIGHTS)
            for token in range(20):
                experts = reference.token_experts(routing, key, token)
                assert tuple(source.experts[token].tolist()) == experts, (routing, rank, token)
                assert tuple(source.in_rank[token].nonzero()[:, 0].tolist()) == reference.token_ranks(routing, experts)
                assert tuple(source.in_node[token].nonzero()[:, 0].tolist()) == alltoall_definition.token_nodes(routing, experts)
                assert source.x[token].tolist() == [alltoall_definition.value(values, token, column) for column in range(128)]
                assert source.weights[token].tolist() == [alltoall_definition.weight(weights, token, slot) for slot in range(routing.topk)]
                compared += 1
    return compared


def cells() -> None:
    for key in (0, 1, 0xDEADBEEF, 0xFFFFFFFF):
        got = field(key, 5, 300, "cpu").tolist()
        assert got == [[reference.cell(key, row, column) for column in range(300)] for row in range(5)]
    assert gains(torch.arange(300)).tolist() == [alltoall_definition.expert_gain(expert) for expert in range(300)]


def codecs() -> dict[str, float]:
    """Bytes and error of FP8 and of its stand-in."""
    x = make_source(Routing(1, 1, 4, 2, 1), 0, 0, 64, 512, "cpu").x
    x[0] = 0
    x[1, :128] = 1e-30
    errors = {}
    for codec in (pick_codec("cpu"), Codec("int8", True, 127.0)):
        packed = codec.encode(x)
        assert packed.dtype == torch.uint8 and packed.shape == (64, 512 + 4 * 512 // 128)
        back = codec.decode(packed, 512)
        assert torch.equal(back[0], x[0]), "zeros stay zeros"
        assert back.isfinite().all()
        # E4M3 keeps 4 significant bits (half a step is 1/16 of the value); INT8's step is the group's largest over 127.
        error = (back.float() - x.float()).abs()
        bound = x.float().abs() / 16 + 0.02 if not codec.emulated else torch.full_like(error, 2 / 127)
        assert bool((error <= bound).all()), codec.name
        errors[codec.name] = difference(back, x)
        assert errors[codec.name] < LIMIT_FP8
    return errors


def catches() -> int:
    """Each damage of one element must be a failure that names its token."""
    routing = Routing(1, 2, 8, 4, 1)
    source = make_source(routing, 0, 0, 16, 128, "cpu")
    copies = source.in_rank.sum(dim=1, keepdim=True).float()
    good = (source.x.float() * copies).to(torch.bfloat16)

    def checker() -> Checker:
        return Checker(routing, 0, 0, 16, 128, "cpu", pick_codec("cpu"))

    clean = checker()
    assert clean.combined("clean", good, source, False) < LIMIT_BF16
    factor = (source.weights * gains(source.experts)).sum(dim=1, keepdim=True)
    clean.weighted("clean", (source.x.float() * factor).to(torch.bfloat16), source)
    clean.weights("clean", source.weights.clone(), source)
    assert clean.failures == []
    for token in range(16):
        bad = good.clone()
        bad[token, 5] += 0.0625
        one = checker()
        one.combined("bad", bad, source, False)
        assert len(one.failures) == 1 and f"token {token}, element 5 " in one.failures[0], one.failures
    bad = good.clone()
    bad[3, 0] = float("nan")
    one = checker()
    one.combined("nan", bad, source, False)
    assert any("token 3" in failure for failure in one.failures), "NaN compares false with everything and must still fail"
    swapped = good.clone()
    swapped[[1, 2]] = swapped[[2, 1]]
    one = checker()
    one.combined("swapped", swapped, source, False)
    assert one.failures
    gates = source.weights.clone()
    gates[7, 0] = 0
    one = checker()
    one.weights("gates", gates, source)
    assert any("token 7" in failure for failure in one.failures)
    return 19


def splits() -> None:
    """Each top-k slot belongs to exactly one rank, and the ranks' shares add up."""
    routing = Routing(2, 4, 16, 6, 2)
    source = make_source(routing, 5, 1, 32, 128, "cpu")
    shares = [local_topk(source.experts, source.weights, rank, routing) for rank in range(4)]
    owners = torch.stack([experts >= 0 for experts, _ in shares]).sum(dim=0)
    assert bool((owners == 1).all())
    assert torch.equal(torch.stack([weights for _, weights in shares]).sum(dim=0), source.weights)
    assert all(int(experts.max()) < routing.experts_per_rank for experts, _ in shares)


torch.set_num_threads(1)
cells()
splits()
json.dump({"tokens": routes(), "errors": codecs(), "damages": catches(), "torch": str(torch.__version__)}, sys.stdout)
