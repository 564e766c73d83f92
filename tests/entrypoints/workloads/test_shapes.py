"""Shapes: what runs as asked, what is refused with the nearest that would run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.errors import UsageError
from entrypoints.workloads import Request, choose, get, names
from entrypoints.workloads.alltoall import AllToAll
from entrypoints.workloads.model import nearest, nearest_multiple


@pytest.fixture
def v1(tmp_path: Path) -> str:
    tests = tmp_path / "v1" / "tests"
    tests.mkdir(parents=True)
    for name in ("internode", "intranode", "low_latency"):
        (tests / f"test_{name}.py").touch()
    return str(tests.parent)


@pytest.fixture
def later(v1: str) -> str:
    header = Path(v1) / "csrc" / "kernels" / "launch.cuh"
    header.parent.mkdir(parents=True)
    header.write_text("case 2560: case_macro(2560);\ncase 3072: case_macro(3072);\n")
    return v1


@pytest.fixture
def v2(tmp_path: Path) -> str:
    for folder, kinds in (("legacy", ("internode", "intranode", "low_latency")), ("elastic", ("ep", "agrs", "barrier", "engram", "pp"))):
        path = tmp_path / "v2" / "tests" / folder
        path.mkdir(parents=True)
        for name in kinds:
            (path / f"test_{name}.py").touch()
    return str(tmp_path / "v2")


def refused(name: str, request: Request) -> str:
    with pytest.raises(UsageError) as caught:
        get(name).prepare(request)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.integers(1, 8), st.integers(1, 16), st.integers(0, 1))
def test_alltoall_has_a_default_shape_everywhere(nodes: int, ranks: int, on_gpu: int) -> None:
    shape = AllToAll().shape(Request(nodes=nodes, ranks=ranks, gpus=ranks * on_gpu))
    assert shape["num_experts"] % (nodes * ranks) == 0
    assert shape["num_topk"] <= shape["num_topk_groups"] * shape["num_experts"] // nodes


def test_alltoall_on_gpus_defaults_to_deepeps_shape() -> None:
    prepared = get("alltoall").prepare(Request(nodes=4, ranks=8, gpus=8))
    assert {k: prepared.shape[k] for k in ("num_tokens", "hidden", "num_topk", "num_experts", "num_topk_groups")} == {
        "num_tokens": 4096,
        "hidden": 7168,
        "num_topk": 8,
        "num_experts": 256,
        "num_topk_groups": 4,
    }
    assert "--backend=nccl" in prepared.argv


@pytest.mark.parametrize(
    ("request_", "option", "hint"),
    [
        (Request(2, 2, num_experts=30), "--num-experts", "--num-experts 32"),
        (Request(2, 2, hidden=1000), "--hidden", "--hidden 1024"),
        (Request(2, 2, num_topk_groups=3), "--num-topk-groups", "--num-topk-groups 2"),
        (Request(2, 2, num_topk=17, num_topk_groups=1), "--num-topk", "--num-topk 16"),
        (Request(2, 2, num_tokens=0), "--num-tokens", "at least 1"),
        (Request(2, 2, num_topk=-1), "--num-topk", "at least 1"),
        (Request(2, 2, repeats=0), "--repeats", "at least 1"),
    ],
)
def test_alltoall_refuses_an_impossible_shape_and_names_the_nearest(request_: Request, option: str, hint: str) -> None:
    message = refused("alltoall", request_)
    assert option in message
    assert hint in message


def test_nccl_takes_one_rank_a_gpu() -> None:
    assert "--ranks 1" in refused("alltoall", Request(nodes=1, ranks=2, gpus=1))


@pytest.mark.parametrize(
    ("name", "request_", "option", "hint"),
    [
        ("deepep-internode", Request(1, 8), "--nodes", "--nodes 2 or --workload deepep-intranode"),
        ("deepep-internode", Request(3, 8), "--nodes", "--nodes 2"),
        ("deepep-internode", Request(21, 8), "--nodes", "--nodes 20"),
        ("deepep-internode", Request(2, 4), "--ranks", "--ranks 8"),
        ("deepep-internode", Request(2, 8, num_experts=250), "--num-experts", "--num-experts 256"),
        ("deepep-internode", Request(2, 8, hidden=3072), "--hidden", "--hidden 2560"),
        ("deepep-internode", Request(2, 8, num_topk_groups=3), "--num-topk-groups", "nearest possible: 2"),
        ("deepep-intranode", Request(2, 8), "--nodes", "deepep-internode"),
        ("deepep-intranode", Request(1, 1), "--ranks", "--ranks 2"),
        ("deepep-intranode", Request(1, 6), "--ranks", "--ranks 4"),
        ("deepep-low-latency", Request(3, 4), "--ranks", "16 ranks in all"),
        ("deepep-low-latency", Request(1, 7, num_experts=288), "--num-experts", "--num-experts 287"),
        ("deepep-low-latency", Request(1, 2, num_topk=12), "--num-topk", "--num-topk 11"),
        ("deepep-intranode", Request(1, 2, num_topk=33), "--num-topk", "--num-topk 32"),
        ("deepep-intranode", Request(1, 2, num_topk=8, num_experts=4), "--num-topk", "--num-topk 4"),
        ("deepep-intranode", Request(1, 2, num_tokens=0), "--num-tokens", "--num-tokens 1"),
        ("deepep-internode", Request(2, 8, num_topk=-1), "--num-topk", "--num-topk 1"),
        ("deepep-internode", Request(4, 8, num_topk=40), "--num-topk", "--num-topk 32"),
    ],
)
def test_deepep_v1_limits(v1: str, name: str, request_: Request, option: str, hint: str) -> None:
    message = refused(name, replace(request_, gpus=request_.ranks, deepep_path=v1))
    assert option in message
    assert hint in message


def test_later_trees_have_more_node_counts_and_hidden_sizes(later: str) -> None:
    prepared = get("deepep-internode").prepare(Request(nodes=3, ranks=8, gpus=8, hidden=3072, deepep_path=later))
    assert prepared.shape["num_experts"] == 264, "256 does not divide by 24 ranks; the default moves to the next multiple"
    assert prepared.argv[0].endswith("tests/test_internode.py")


def test_argv_carries_the_shape_then_the_users_own(v1: str) -> None:
    prepared = get("deepep-low-latency").prepare(Request(nodes=1, ranks=1, gpus=1, deepep_path=v1, extra=("--use-logfmt",)))
    assert prepared.script
    assert prepared.argv[1:3] == ("--num-processes", "1")
    assert prepared.argv[-1] == "--use-logfmt"
    assert "--num-experts" in prepared.argv
    assert "no network figure" in prepared.notes[0]


def test_v2_runs_legacy_and_elastic_tests(v2: str) -> None:
    legacy = get("deepep-internode").prepare(Request(nodes=2, ranks=8, gpus=8, deepep_path=v2))
    assert legacy.argv[0].endswith("tests/legacy/test_internode.py")
    elastic = get("deepep-elastic").prepare(Request(nodes=1, ranks=4, gpus=4, deepep_path=v2))
    assert elastic.env == {"EP_DISABLE_GIN": "1"}
    assert "one node" in elastic.notes[0]
    assert elastic.test == "elastic_ep"


@pytest.mark.parametrize(
    ("nodes", "ranks", "environ", "expected"),
    [(1, 1, {}, {}), (2, 8, {}, {}), (1, 8, {}, {"EP_DISABLE_GIN": "1"}), (1, 8, {"EP_DISABLE_GIN": "0"}, {})],
)
def test_gin_is_off_only_where_it_cannot_work_and_the_user_has_not_said(
    v2: str, nodes: int, ranks: int, environ: dict[str, str], expected: dict[str, str]
) -> None:
    prepared = get("deepep-elastic").prepare(Request(nodes=nodes, ranks=ranks, gpus=ranks, deepep_path=v2, environ=environ))
    assert prepared.env == expected


def test_pipeline_test_needs_two_ranks(v2: str) -> None:
    assert "--ranks 2" in refused("deepep-elastic-pp", Request(nodes=1, ranks=1, gpus=1, deepep_path=v2))


def test_elastic_on_a_v1_tree_is_refused(v1: str) -> None:
    assert "V1 tree" in refused("deepep-elastic", Request(nodes=1, ranks=1, gpus=1, deepep_path=v1))


def test_missing_tree_names_the_ways_to_give_one() -> None:
    message = refused("deepep-intranode", Request(nodes=1, ranks=2, gpus=2, deepep_path="/does/not/exist"))
    assert "/does/not/exist" in message
    assert "EPBOX_DEEPEP_PATH" in message


def test_unknown_workload_lists_all() -> None:
    with pytest.raises(UsageError, match=r"deepep-elastic-pp"):
        get("allreduce")
    assert set(names()) >= {"alltoall", "deepep-internode", "deepep-intranode", "deepep-low-latency", "deepep-elastic"}


@pytest.mark.parametrize(
    ("nodes", "ranks", "gpus", "expected"),
    [
        (1, 2, 0, "alltoall"),
        (2, 8, 8, "deepep-internode"),
        (2, 4, 4, "deepep-low-latency"),
        (1, 8, 8, "deepep-intranode"),
        (1, 1, 1, "deepep-low-latency"),
        (5, 8, 8, "deepep-low-latency"),
        (3, 3, 3, "alltoall"),
        (1, 16, 16, "alltoall"),
    ],
)
def test_auto_picks_by_gpus_and_nodes_and_says_why(v1: str, nodes: int, ranks: int, gpus: int, expected: str) -> None:
    name, why = choose(Request(nodes=nodes, ranks=ranks, gpus=gpus, deepep_path=v1))
    assert name == expected
    assert why
    get(name).prepare(Request(nodes=nodes, ranks=ranks, gpus=gpus, deepep_path=v1))


def test_auto_takes_elastic_on_v2_and_the_baseline_without_a_tree(v2: str) -> None:
    assert choose(Request(nodes=1, ranks=8, gpus=8, deepep_path=v2))[0] == "deepep-elastic"
    name, why = choose(Request(nodes=1, ranks=8, gpus=8, deepep_path="/does/not/exist"))
    assert name == "alltoall"
    assert "no DeepEP" in why


@given(st.integers(-5, 5000), st.integers(1, 300))
def test_nearest_multiple_is_a_positive_multiple_and_none_is_closer(wanted: int, unit: int) -> None:
    found = nearest_multiple(wanted, unit)
    assert found >= unit
    assert found % unit == 0
    closer = [k * unit for k in range(1, wanted // unit + 3) if abs(k * unit - wanted) < abs(found - wanted)]
    assert closer == []


def test_nearest_prefers_the_smaller_of_two() -> None:
    assert nearest(3, (2, 4)) == 2


def test_every_message_of_a_refusal_names_an_option(v1: str) -> None:
    assert re.match(r"--\w", refused("deepep-intranode", Request(nodes=1, ranks=3, gpus=3, deepep_path=v1)))
