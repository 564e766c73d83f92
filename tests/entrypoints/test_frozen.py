"""entrypoints.frozen against the standard library's dataclasses: same bodies, same behaviour, none of its imports."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from entrypoints import frozen
from entrypoints.placement.model import MemoryPolicy, Plan, RankPlan
from entrypoints.topology.model import Cpu, Hca, NumaNode, Topology

ROOT = Path(__file__).parents[2]


def body(dataclass: Any, field: Any) -> Any:
    @dataclass(frozen=True)
    class Point:
        """One class body, made by both."""

        x: int
        y: int = 2
        tags: dict[str, int] = field(default_factory=dict)

        @property
        def sum(self) -> int:
            return self.x + self.y

    return Point


OURS, THEIRS = body(frozen.dataclass, frozen.field), body(dataclasses.dataclass, dataclasses.field)
BOTH = pytest.mark.parametrize("point", [OURS, THEIRS], ids=["ours", "theirs"])


@pytest.mark.parametrize(
    ("args", "named"),
    [((1,), {}), ((1, 3), {}), ((1, 3, {"a": 1}), {}), ((), {"x": 1}), ((1,), {"tags": {}}), ((), {"y": 5, "x": 4})],
)
def test_same_fields_repr_and_equality(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = OURS(*args, **named), THEIRS(*args, **named)
    assert repr(ours) == repr(theirs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert ours.sum == theirs.sum
    assert (ours == OURS(9), ours == OURS(*args, **named)) == (theirs == THEIRS(9), theirs == THEIRS(*args, **named))
    assert ours != theirs and ours != args


@BOTH
@pytest.mark.parametrize(
    ("args", "named"), [((), {}), ((), {"y": 1}), ((1, 2, {}, 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"z": 1})]
)
def test_wrong_arguments_are_refused(point: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Point"):
        point(*args, **named)


@BOTH
def test_frozen_and_own_defaults(point: Any) -> None:
    one = point(1)
    with pytest.raises(AttributeError):
        one.x = 2
    with pytest.raises(AttributeError):
        one.new = 2
    with pytest.raises(AttributeError):
        del one.x
    one.tags["a"] = 1
    assert point(1).tags == {} and one.x == 1
    assert point.y == 2 and not hasattr(point, "tags")


@BOTH
def test_hash_is_of_the_fields(point: Any) -> None:
    assert hash(point(1, 2, ())) == hash(point(1, 2, ())) == hash((1, 2, ()))
    with pytest.raises(TypeError, match="unhashable"):
        hash(point(1))


@BOTH
def test_matches_by_position(point: Any) -> None:
    match point(1, 7):
        case point(1, y):
            assert y == 7
        case _:
            pytest.fail("no match")


@pytest.mark.parametrize("replace", [frozen.replace, dataclasses.replace], ids=["ours", "theirs"])
def test_replace(replace: Any) -> None:
    one = OURS(1, 3, {"a": 1})
    assert replace(one, y=4) == OURS(1, 4, {"a": 1}) and one.y == 3
    with pytest.raises(TypeError):
        replace(one, z=1)


def test_models_survive_copies_and_pickles_and_are_dataclasses() -> None:
    plan = Plan("here", {"a": 1}, (RankPlan(0, cpus=(1, 2), memory=MemoryPolicy("bind", (0,)), env={"A": "b"}),))
    host = Topology("here", cpus=(Cpu(0), Cpu(1, core=1)), numa_nodes=(NumaNode(0, (0, 1)),), hcas=(Hca("mlx5_0", name="mlx5_0"),))
    for model in (plan, host):
        assert pickle.loads(pickle.dumps(model)) == model
        assert copy.deepcopy(model) == model and copy.copy(model) == model
        assert dataclasses.is_dataclass(model)
    assert [field.name for field in dataclasses.fields(Cpu)] == ["id", "core", "package", "l3", "siblings"]
    assert dataclasses.asdict(plan)["ranks"][0]["memory"] == {"policy": "bind", "nodes": (0,)}
    assert RankPlan(0).env is not RankPlan(0).env


def test_what_is_not_offered_is_refused() -> None:
    with pytest.raises(TypeError, match="frozen"):
        frozen.dataclass(frozen=False)
    with pytest.raises(TypeError, match="inherited"):
        frozen.dataclass(frozen=True)(type("Child", (OURS,), {"__annotations__": {"z": int}}))


def test_a_plan_imports_none_of_what_is_slow(tmp_path: Path) -> None:
    from tests.helpers import sysfs_tree

    host = sysfs_tree.build(tmp_path / "host", sysfs_tree.azure_ndv5())
    code = (
        "import argparse, json, runpy, sys\n"
        f"sys.argv = ['epbox', 'plan', '--topology', {str(host)!r}, '--format', 'json']\n"
        "before = set(sys.modules)\n"
        "try:\n    runpy.run_module('entrypoints', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
    )
    # -S: what a site's own .pth files import is not ours.
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "entrypoints.placement.plan" in loaded
    slow = {"dataclasses", "inspect", "typing", "pathlib", "shutil", "subprocess", "tempfile", "socket", "ctypes", "psutil", "threading"}
    assert not loaded & slow
