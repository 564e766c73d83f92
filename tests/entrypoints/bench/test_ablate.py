"""The ablation's arms and its verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.bench import arms
from entrypoints.bench.launching import Arm, NodeRun, Printed
from entrypoints.launch.signals import Stop
from entrypoints.placement.model import RankPlan
from entrypoints.results import comparison
from entrypoints.results.model import AblationRow, Change, Launch, LowLatency, Run, Shape
from entrypoints.results.show import ablation_text
from entrypoints.topology.model import Cpu, NumaNode
from tests.helpers.bench_records import Spread, best, run_of


def runs_of(figures: Mapping[str, Sequence[float]], nodes: int = 2) -> list[Run]:
    return [run_of(best(value), arm=arm, shape=Shape(nodes=nodes)) for arm, values in figures.items() for value in values]


def rows(figures: Mapping[str, Sequence[float]], equal: tuple[str, ...] = ()) -> dict[str, AblationRow]:
    return {row.arm: row for row in comparison.ablation(runs_of(figures), equal)}


def test_a_difference_beyond_the_spread_counts_and_one_below_is_noise() -> None:
    found = rows({"none": [10, 10.1, 9.9], "nic": [20, 20.2, 19.8], "nic+cpu": [20.1, 19.9, 20.3]})
    assert found["none"].change is None
    assert found["nic"].noise is False
    assert found["nic"].change == pytest.approx(1.0)
    assert found["nic+cpu"].noise is True


def test_wide_runs_make_the_same_difference_noise() -> None:
    assert rows({"none": [5, 10, 15], "nic": [10, 14, 18]})["nic"].noise is True


def test_fewer_than_three_runs_decide_nothing() -> None:
    assert rows({"none": [1, 1], "nic": [100, 100]})["nic"].noise is None


def test_an_arm_that_cannot_differ_sets_the_noise_floor() -> None:
    figures = {"none": [10, 10, 10], "nic": [13, 13, 13], "nic+cpu": [15, 15, 15], "nic+cpu+mem": [30, 30, 30]}
    found = rows(figures, ("nic",))
    assert found["nic"].noise is True, "equal settings differ by chance only"
    assert found["nic+cpu"].noise is True, "15 % is below the 30 % that chance made"
    assert found["nic+cpu+mem"].noise is False
    assert rows(figures)["nic+cpu"].noise is False, "without that knowledge it would have counted"


def test_spread_inside_a_run_counts_when_runs_agree() -> None:
    wide, narrow = best(10, us=Spread(50, 100, 200)), best(14, us=Spread(90, 100, 110))
    none, nic = comparison.ablation([run_of(wide, arm="none")] * 3 + [run_of(narrow, arm="nic")] * 3)
    assert (none.low_gbps, none.high_gbps) == (5.0, 20.0)
    assert nic.noise is True


def test_one_node_is_compared_by_nvl() -> None:
    assert comparison.ablation(runs_of({"none": [1.0]}, nodes=1))[0].median_gbps == 2.0


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=8))
def test_identical_arms_are_never_called_different(values: list[float]) -> None:
    assert rows({"none": values, "nic": values})["nic"].noise is True


def test_a_dead_arm_has_no_ratio() -> None:
    found = rows({"none": [0.0, 0.0, 0.0], "nic": [1, 1, 1]})
    assert found["nic"].change is None
    assert "nic" in ablation_text(list(found.values()))


ARMS = ["none", "nic", "nic+cpu", "nic+cpu+mem", "formula"]


def test_arms_without_and_with_hcas(make_job: Any) -> None:
    assert [arm.name for arm in arms.of_ablation(make_job("--ablate"))] == ARMS
    found = arms.of_ablation(make_job("--ablate", hca="mlx5_", workload="deepep-internode"))
    assert [str(arm.bind) for arm in found] == ["none", "nic", "nic,cpu", "all", "cpu,mem"]
    assert found[-1].env == {"NVSHMEM_HCA_LIST": "mlx5_0:1,mlx5_1:1", "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}
    assert all(arm.about for arm in found)


def azure(job: Any) -> Any:
    """Eight ranks on 96 CPUs and two nodes, as ND H100 v5 has them."""
    nodes = (NumaNode(0, tuple(range(48))), NumaNode(1, tuple(range(48, 96))))
    topology = replace(job.topology, numa_nodes=nodes, cpus=tuple(Cpu(n) for n in range(96)))
    return replace(job, topology=topology, plan=replace(job.plan, ranks=tuple(RankPlan(n) for n in range(8))))


def test_the_formula_is_the_one_that_circulates(make_job: Any) -> None:
    plan = arms.formula_plan(azure(make_job()))
    assert [rank.cpus for rank in plan.ranks] == [tuple(range(12 * n, 12 * n + 12)) for n in range(8)]
    assert [rank.memory.nodes for rank in plan.ranks] == [(n // 4,) for n in range(8)]


def test_the_formula_has_no_answer_for_more_ranks_than_cpus(make_job: Any) -> None:
    job = make_job()
    plan = arms.formula_plan(replace(job, topology=replace(job.topology, cpus=(Cpu(0),))))
    assert [rank.cpus for rank in plan.ranks] == [(), ()]


def test_equal_arms_are_known_from_the_host(make_job: Any) -> None:
    assert set(arms.equal_arms(make_job(memory_nodes=1))) == {"nic", "nic+cpu+mem"}
    assert set(arms.equal_arms(make_job(memory_nodes=2))) == {"nic"}
    internode = {"hca": "mlx5_", "workload": "deepep-internode", "memory_nodes": 2}
    assert arms.equal_arms(make_job(**internode, nodes=2)) == {}
    assert set(arms.equal_arms(make_job(**internode))) == {"nic"}, "one node meets over NVLink"
    assert arms.equal_arms(make_job("--ablate", "--", "--disable-nvlink", **internode)) == {}
    assert set(arms.equal_arms(make_job(hca="mlx5_", memory_nodes=2, nodes=2))) == {"nic"}, "gloo goes over TCP"


def test_a_formula_that_gives_the_plan_is_an_equal_arm(make_job: Any) -> None:
    job = azure(make_job())
    same = replace(job, plan=arms.formula_plan(job))
    assert "formula" in arms.equal_arms(same)
    other = replace(same, plan=replace(same.plan, ranks=same.plan.ranks[::-1]))
    assert "formula" not in arms.equal_arms(other)


def test_arms_take_turns(make_job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[tuple[str, Any]] = []

    done = NodeRun((), Printed(), Launch(bind="all", exit_code=0, seconds=0.0))

    def record(arm: Arm, logs: Path, session: Any, stop: Any) -> NodeRun:
        order.append((arm.name, arm.job.plan))
        return done

    monkeypatch.setattr(arms, "launch", record)
    monkeypatch.setenv("NVSHMEM_HCA_LIST", "mlx5_7")
    job = make_job("--ablate", "--runs", "2")
    arms.run(arms.of_ablation(job), tmp_path, None, Stop())  # type: ignore[arg-type]
    assert [arm for arm, _ in order] == ARMS + ARMS[::-1]
    assert {arm for arm, plan in order if plan is not job.plan} == {"formula"}
    assert "NVSHMEM_HCA_LIST is set by you" in capsys.readouterr().err


def test_the_whole_is_compared_with_none_under_the_same_rule() -> None:
    found = rows({"none": [10, 10, 10], "nic": [11, 11, 11], "nic+cpu": [12, 12, 12], "nic+cpu+mem": [12, 12, 12]}, ("nic",))
    assert found["nic+cpu+mem"].against_none == Change(change=0.2, noise=False)
    assert found["nic+cpu"].against_none.noise is False, "20 % is above the 10 % of chance"
    assert found["nic+cpu"].noise is True, "9 % is not"
    assert found["none"].against_none == Change()
    assert {row.floor for row in found.values()} == {0.1}


def test_low_latency_is_ablated_by_what_it_prints() -> None:
    low = (LowLatency(rank=0, dispatch_combine_gbps=40.0, avg_us=1.0),)
    runs = [Run(test="low_latency", shape=Shape(nodes=2), low_latency=low, arm=arm) for arm in ("none", "nic") for _ in range(3)]
    found = comparison.ablation(runs)
    assert [(row.op, row.direction, row.median_gbps) for row in found] == [("dispatch+combine", "total", 40.0)] * 2
    assert "dispatch+combine" in ablation_text(found)


def test_one_sentence_says_what_it_comes_to() -> None:
    assert "no arm differs" in comparison.ablation_verdict(comparison.ablation(runs_of({"none": [10, 10, 10], "nic": [10, 10, 10]})))
    assert "nic +100% (combine)" in comparison.ablation_verdict(comparison.ablation(runs_of({"none": [10, 10, 10], "nic": [20, 20, 20]})))
    assert "decide nothing" in comparison.ablation_verdict(comparison.ablation(runs_of({"none": [10], "nic": [20]})))


def test_the_table_names_noise_and_undecided() -> None:
    noise = ablation_text(comparison.ablation(runs_of({"none": [5, 10, 15], "nic": [10, 14, 18]})))
    assert "+40.0% noise" in noise
    assert "?" not in noise
    assert "+100.0% ?" in ablation_text(comparison.ablation(runs_of({"none": [1], "nic": [2]})))
