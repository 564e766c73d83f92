"""The ablation's arms and its verdicts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrypoints.bench import ablate
from tests.helpers.bench_records import best, run_of


def table(arms: dict[str, list[float]], nodes: int = 2) -> dict[str, Any]:
    runs = [run_of(best(value), arm=arm) for arm, values in arms.items() for value in values]
    return {"shape": {"nodes": nodes}, "runs": runs}


def rows(arms: dict[str, list[float]], equal: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {row["arm"]: row for row in ablate.compare(table(arms), equal)}


def test_a_difference_beyond_the_spread_counts_and_one_below_is_noise() -> None:
    found = rows({"none": [10, 10.1, 9.9], "nic": [20, 20.2, 19.8], "nic+cpu": [20.1, 19.9, 20.3]})
    assert found["none"]["change"] is None
    assert found["nic"]["noise"] is False
    assert found["nic"]["change"] == pytest.approx(1.0)
    assert found["nic+cpu"]["noise"] is True


def test_wide_runs_make_the_same_difference_noise() -> None:
    assert rows({"none": [5, 10, 15], "nic": [10, 14, 18]})["nic"]["noise"] is True


def test_fewer_than_three_runs_decide_nothing() -> None:
    assert rows({"none": [1, 1], "nic": [100, 100]})["nic"]["noise"] is None


def test_an_arm_that_cannot_differ_sets_the_noise_floor() -> None:
    arms = {"none": [10, 10, 10], "nic": [13, 13, 13], "nic+cpu": [15, 15, 15], "nic+cpu+mem": [30, 30, 30]}
    found = rows(arms, ("nic",))
    assert found["nic"]["noise"] is True, "equal settings differ by chance only"
    assert found["nic+cpu"]["noise"] is True, "15 % is below the 30 % that chance made"
    assert found["nic+cpu+mem"]["noise"] is False
    assert rows(arms)["nic+cpu"]["noise"] is False, "without that knowledge it would have counted"


def test_spread_inside_a_run_counts_when_runs_agree() -> None:
    wide = best(10, us=(50, 100, 200))
    document = {"shape": {"nodes": 2}, "runs": [run_of(wide, arm="none")] * 3 + [run_of(best(14, us=(90, 100, 110)), arm="nic")] * 3}
    none, nic = ablate.compare(document)
    assert (none["low_gbps"], none["high_gbps"]) == (5.0, 20.0)
    assert nic["noise"] is True


def test_one_node_is_compared_by_nvl() -> None:
    assert ablate.compare(table({"none": [1.0]}, nodes=1))[0]["median_gbps"] == 2.0


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=8))
def test_identical_arms_are_never_called_different(values: list[float]) -> None:
    assert rows({"none": values, "nic": values})["nic"]["noise"] is True


def test_a_dead_arm_has_no_ratio() -> None:
    found = rows({"none": [0.0, 0.0, 0.0], "nic": [1, 1, 1]})
    assert found["nic"]["change"] is None
    ablate.show(list(found.values()))


def test_arms_without_and_with_hcas(make_job: Any) -> None:
    assert [arm.name for arm in ablate.arms(make_job("--ablate"))] == ["none", "nic", "nic+cpu", "nic+cpu+mem"]
    arms = ablate.arms(make_job("--ablate", hca="mlx5_", workload="deepep-internode"))
    assert [str(arm.bind) for arm in arms] == ["none", "nic", "nic,cpu", "all", "cpu,mem"]
    assert arms[-1].env == {"NVSHMEM_HCA_LIST": "mlx5_0:1,mlx5_1:1", "NVSHMEM_ENABLE_NIC_PE_MAPPING": "1"}


def test_equal_arms_are_known_from_the_host(make_job: Any) -> None:
    assert set(ablate.equal_arms(make_job(memory_nodes=1))) == {"nic", "nic+cpu+mem"}
    assert set(ablate.equal_arms(make_job(memory_nodes=2))) == {"nic"}
    assert ablate.equal_arms(make_job(memory_nodes=2, hca="mlx5_")) == {}


def test_arms_take_turns(make_job: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []

    class Done:
        exit_code = 0

    def record(job: Any, bind: Any, logs: Path, session: Any, arm: str, env: dict[str, str]) -> Any:
        order.append(arm)
        return Done()

    monkeypatch.setattr(ablate, "launch", record)
    ablate.run(make_job("--ablate", "--runs", "2"), tmp_path, None)  # type: ignore[arg-type]
    assert order == ["none", "nic", "nic+cpu", "nic+cpu+mem", "nic+cpu+mem", "nic+cpu", "nic", "none"]


def test_the_table_names_noise_and_undecided() -> None:
    noise = ablate.show(ablate.compare(table({"none": [5, 10, 15], "nic": [10, 14, 18]})))
    assert "+40.0% noise" in noise
    assert "?" not in noise
    assert "+100.0% ?" in ablate.show(ablate.compare(table({"none": [1], "nic": [2]})))
