"""Half-known hosts and nonsense in the environment: a plan, or a message with an exit code; never a traceback."""

from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.errors import EPBoxError
from entrypoints.placement import model
from entrypoints.placement.compare import compare, compare_table
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.model import LEVELS, Allowed, Cpu, Gid, Gpu, Hca, NumaNode, Port, Topology

small = st.integers(-1, 5)
maybe = st.one_of(st.none(), small)
word = st.one_of(
    st.none(), st.sampled_from(["mlx5_0", "mlx5_1", "mlx5_bond_0", "rocep1s0f0", "efa_0", "NIC0", "", "é x"]), st.text(max_size=6)
)
bus = st.one_of(st.none(), st.sampled_from(["0000:10:00.0", "0000:10:00.1", "0001:00:00.0", "10000:00:02.0", "junk", ""]))
path = st.lists(st.sampled_from(["pci0000:00", "0000:00:01.0", "0000:01:00.0", "x"]), max_size=3).map(tuple)
ids = st.lists(small, max_size=4).map(tuple)
gids = st.lists(st.builds(Gid, small, st.text(max_size=5), word), max_size=2).map(tuple)
rates = st.one_of(st.none(), st.sampled_from([0.0, 25.0, 200.0, 400.0]))
states = st.sampled_from([None, "ACTIVE", "4: ACTIVE", "DOWN", "", "?"])
ports = st.lists(st.builds(Port, small, states, st.sampled_from([None, "InfiniBand", "Ethernet", "?"]), rates, word, gids), max_size=2).map(
    tuple
)
hca = st.builds(
    Hca, st.just(""), word, bus, maybe, path, ids, ports, word, word, word, word, word, bus, st.sampled_from([None, True, False]),
    st.sampled_from([None, True, False]), maybe,
)  # fmt: skip
environment = st.dictionaries(
    st.sampled_from(
        [
            "NVSHMEM_HCA_LIST", "NVSHMEM_HCA_PE_MAPPING", "NVSHMEM_HCA_PREFIX", "NVSHMEM_IB_GID_INDEX", "NVSHMEM_ENABLE_NIC_PE_MAPPING",
            "NCCL_IB_HCA", "DEEP_EP_DEVICE_TO_HCA_MAPPING", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "EP_NIC_NAME",
        ]
    ),
    st.one_of(st.text(max_size=8), st.sampled_from(["mlx5_0", "^mlx5_0:1", "=mlx5_0", "0:mlx5_0:1", "0,1", "-1", "mlx5", ",", "^", "3"])),
    max_size=3,
)  # fmt: skip


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    from dataclasses import replace

    hcas = tuple(replace(one, label=f"NIC{i}") for i, one in enumerate(draw(st.lists(hca, max_size=5))))
    gpus = tuple(Gpu(i, draw(bus), None, draw(word), draw(maybe), draw(path), draw(ids)) for i in range(draw(st.integers(0, 4))))
    pairs = [(gpu.index, one.label) for gpu in gpus for one in hcas]
    levels = draw(st.dictionaries(st.sampled_from(pairs), st.sampled_from(LEVELS))) if pairs else {}
    cpus = tuple(Cpu(i, draw(maybe), draw(maybe), draw(maybe), draw(ids)) for i in range(draw(st.integers(0, 5))))
    distances = st.dictionaries(st.integers(0, 5), st.integers(0, 255), max_size=3)
    memory = st.sampled_from([None, 0, 1 << 30])
    nodes = tuple(
        NumaNode(i, draw(ids), draw(memory), draw(distances), draw(st.booleans())) for i in draw(st.sets(st.integers(0, 5), max_size=3))
    )
    return Topology("fuzz", cpus=cpus, numa_nodes=nodes, gpus=gpus, hcas=hcas, allowed=Allowed(draw(ids), draw(ids)), levels=levels)


@given(topologies(), environment, st.sampled_from(["deepep-v1", "deepep-v2", "alltoall"]), st.one_of(st.none(), st.integers(-1, 6)))
@settings(max_examples=150, deadline=None)
def test_any_host_and_any_environment(topology: Topology, environ: dict[str, str], workload: str, ranks: int | None) -> None:
    try:
        plan = make_plan(topology, PlanOptions(ranks, environ, workload=workload))
    except EPBoxError as error:
        assert error.exit_code in (2, 8)
        assert str(error)
        return
    assert plan.to_json()["ranks"]
    for text in (model.plan_table(plan), model.env_text(plan, None), model.numactl_text(plan), model.rankfile_text(plan)):
        assert text
    assert compare_table(plan, compare(topology, plan))
