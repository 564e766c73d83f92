"""What holds on every host, posted or not."""

import itertools
import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.errors import NoPlan
from entrypoints.placement.devices import levels_of
from entrypoints.placement.hca import LEVEL_RANK, capacity, match
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.model import LEVELS, Allowed, Gpu, Topology
from tests.helpers.placing import machine, nic, port, switch

BARE = PlanOptions(environ={})


@st.composite
def hosts(draw: st.DrawFn) -> Topology:
    """GPUs and NICs anywhere: on shared or own switches, flat, with unknown nodes, several ports a card, any cpuset."""
    nodes = draw(st.integers(1, 4))
    smt = draw(st.integers(1, 2))
    host = machine(nodes, draw(st.integers(1, 6)), smt, draw(st.integers(0, 2)))
    flat = draw(st.booleans())
    places = st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, nodes - 1)))
    gpus = tuple(
        Gpu(i, f"0000:{0x10 + 8 * where:02x}:{i:02x}.0", numa_node=node, pci_path=() if flat else switch(where, i))
        for i, (where, node) in enumerate(draw(st.lists(places, max_size=6)))
    )
    hcas = tuple(
        nic(
            f"mlx5_{i}", f"0000:{0x10 + 8 * where:02x}:{0x10 + i // 2:02x}.{i % 2}", node, () if flat else switch(where, 0x10 + i), ports=up
        )
        for i, ((where, node), up) in enumerate(
            draw(st.lists(st.tuples(places, st.sampled_from([port(), port(200), port(100, "Ethernet"), port(state="DOWN")])), max_size=6))
        )
    )
    every = host.allowed.cpus
    allowed = tuple(sorted(draw(st.sets(st.sampled_from(every), min_size=1))))
    return replace(host, gpus=gpus, hcas=hcas, allowed=Allowed(allowed, host.allowed.mems))


@given(hosts(), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_cpus_are_disjoint_and_allowed(host: Topology, ranks: int) -> None:
    try:
        plan = make_plan(host, replace(BARE, ranks=ranks, workload="alltoall"))
    except NoPlan:
        raise AssertionError("a host with allowed CPUs always has a plan") from None
    given_out = [cpu for rank in plan.ranks for cpu in rank.cpus]
    assert all(rank.cpus for rank in plan.ranks)
    assert set(given_out) <= set(host.allowed.cpus)
    if len(host.allowed.cpus) >= ranks:
        assert len(given_out) == len(set(given_out))
    for rank in plan.ranks:
        assert rank.memory.policy == "default" or set(rank.memory.nodes) <= set(host.allowed.mems)
        assert rank.reason


@given(hosts())
@settings(max_examples=80, deadline=None)
def test_load_stays_within_capacity(host: Topology) -> None:
    plan = make_plan(host, BARE)
    rails = plan.host.rails
    if rails and host.gpus:
        loads = Counter(rank.hca for rank in plan.ranks)
        assert None not in loads
        assert max(loads.values()) <= capacity(len(host.gpus), len(rails))
    down = {hca.id for hca in host.hcas if hca.ports[0].state == "DOWN"}
    assert down <= {hca for hca, _ in plan.excluded}


@given(hosts(), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_names_and_order_of_enumeration_do_not_matter(host: Topology, shuffle: random.Random) -> None:
    names = [f"mlx5_{i}" for i in range(40, 40 + len(host.hcas))]
    shuffle.shuffle(names)
    hcas = [replace(hca, name=name, label=name) for hca, name in zip(host.hcas, names, strict=True)]
    gpus = list(host.gpus)
    shuffle.shuffle(hcas)
    shuffle.shuffle(gpus)
    before = {rank.gpu_pci: (rank.hca_pci, rank.cpus) for rank in make_plan(host, BARE).ranks}
    after = {rank.gpu_pci: (rank.hca_pci, rank.cpus) for rank in make_plan(replace(host, hcas=tuple(hcas), gpus=tuple(gpus)), BARE).ranks}
    assert before == after


@given(st.integers(1, 4), st.integers(1, 5), st.data())
@settings(max_examples=80, deadline=None)
def test_no_other_map_has_fewer_far_pairs(gpu_count: int, hca_count: int, data: st.DataObject) -> None:
    """Worst level first: brute force over all maps within the capacity."""
    gpus = tuple(Gpu(i, f"0000:{i:02x}:00.0") for i in range(gpu_count))
    hcas = tuple(nic(f"mlx5_{i}", f"0000:a{i:x}:00.0") for i in range(hca_count))
    levels = {(gpu.index, hca.label): data.draw(st.sampled_from(LEVELS)) for gpu in gpus for hca in hcas}
    host = Topology("test", gpus=gpus, hcas=hcas, levels=levels)
    room = capacity(gpu_count, hca_count)

    def badness(chosen: "tuple[int, ...] | list[int]") -> tuple[list[int], int]:
        ranks = [LEVEL_RANK[levels[gpu, hcas[hca].label]] for gpu, hca in enumerate(chosen)]
        counts = [ranks.count(rank) for rank in sorted(LEVEL_RANK.values(), reverse=True) if rank]
        return counts, sum(load * load for load in Counter(chosen).values())

    ours = match(host, gpus, hcas, levels_of(host, gpus))
    chosen = [hcas.index(ours[gpu.index]) for gpu in gpus]
    allowed = [m for m in itertools.product(range(hca_count), repeat=gpu_count) if max(Counter(m).values()) <= room]
    assert badness(chosen) == min(badness(m) for m in allowed)
