"""Options, ports, folders, interpreters, identity and log reading."""

import json
import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from entrypoints import __version__
from entrypoints.__main__ import main
from entrypoints.bench import identity, preflight, setup
from entrypoints.bench.launching import Printed, read_logs
from entrypoints.errors import PreflightFailed, UsageError
from entrypoints.logs.parse import parse_lines
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.output import open_folder, stamp
from entrypoints.results.model import Correctness
from entrypoints.workloads.model import Prepared
from images.build import recipe, render, sources


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--runs", "0"], "--runs"),
        (["--min-gbps", "0"], "--min-gbps"),
        (["--timeout", "-1"], "--timeout"),
        (["--bind", "gpu"], "--bind"),
        (["--ablate", "--bind", "nic"], "--ablate"),
        (["stray"], "after --"),
        (["--workload", "nccl-tests"], "deepep-internode"),
        (["--num-experts", "3", "--ranks", "2"], "--num-experts 4"),
        (["--min-ratio", "0.9", "--workload", "alltoall"], "--min-gbps"),
        (["--baseline", "--workload", "alltoall"], "which is the baseline itself"),
        (["--baseline", "--ablate"], "--ablate compares bindings"),
    ],
)
def test_wrong_options_are_exit_2_in_one_line(argv: list[str], words: str, capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("EPBOX_PYTHON", sys.executable)
    assert main(["bench", *argv]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_dry_run_starts_nothing_and_tells_all(capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("EPBOX_PYTHON", "/some/python")
    assert main(["bench", "--ranks", "2", "--workload", "alltoall", "--dry-run", "--format", "json", "--", "--x=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [rank["rank"] for rank in told["ranks"]] == [0, 1]
    assert told["ranks"][0]["argv"][0] == "/some/python"
    assert told["ranks"][0]["argv"][-1] == "--x=1"
    assert told["shape"]["ranks_per_node"] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_may_tell_the_topology_that_a_vm_hides(capsys: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("EPBOX_PYTHON", "/some/python")
    matrix = "\tGPU0\tGPU1\tmlx5_0\tmlx5_1\nGPU0\t X \tNV18\tSYS\tPIX\nGPU1\tNV18\t X \tPIX\tSYS\n"
    file = tmp_path / "matrix.txt"
    file.write_text(matrix + "mlx5_0\tSYS\tPIX\t X \tSYS\nmlx5_1\tPIX\tSYS\tSYS\t X \n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    asked = ["bench", "--topology", str(file), "--workload", "alltoall", "--dry-run", "--format", "json"]
    assert main(asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert [rank["hca"] for rank in told["plan"]["ranks"]] == ["mlx5_1", "mlx5_0"]
    assert told["plan"]["source"] == str(file)
    file.write_text("no matrix")
    assert main(asked) == 2
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("EPBOX_PYTHON", "/nowhere/python", "epbox bench: EPBOX_PYTHON=/nowhere/python: no such program; name a Python that has torch"),
        ("EPBOX_WORKLOAD", "nope", "epbox bench: EPBOX_WORKLOAD: no workload 'nope'; one of auto, "),
    ],
)
def test_a_wrong_variable_is_named_before_anything_is_written(
    name: str, value: str, words: str, capsys: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("EPBOX_PYTHON", sys.executable)
    monkeypatch.setenv(name, value)
    assert main(["bench", "--ranks", "1"]) == 2
    assert capsys.readouterr().err.startswith(words)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_torch_and_says_that_a_run_does(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("EPBOX_PYTHON", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "--ranks", "1", "--workload", "alltoall", "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert f"note: a run would stop here: {sys.executable}: this Python has no torch" in told
    assert "rank 0 on CPUs " in told


def test_a_python_without_torch_is_told_how_to_get_one(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PreflightFailed, match="EPBOX_PYTHON"):
        setup.rank_python({})
    assert setup.rank_python({"EPBOX_PYTHON": "/p"}) == "/p"


def test_a_lone_node_takes_a_free_port_unless_one_is_named() -> None:
    class Flags:
        master_port: int | None = None

    there = Rendezvous()
    assert setup.own_port(there, Flags(), {}).master_port != there.master_port  # type: ignore[arg-type]
    assert setup.own_port(there, Flags(), {"MASTER_PORT": "8361"}) is there  # type: ignore[arg-type]
    assert setup.own_port(Rendezvous(nodes=2), Flags(), {}).master_port == there.master_port  # type: ignore[arg-type]


def test_interface_towards_loopback_is_found() -> None:
    assert setup.loopback_or_route("127.0.0.1") == "lo"
    assert setup.loopback_or_route("no.such.host.invalid") is None


def test_stamp_is_utc_and_sortable() -> None:
    assert stamp(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)) == "2026-01-02T03-04-05Z"
    assert re.fullmatch(r"[0-9TZ-]+", stamp())


def test_two_runs_in_one_second_get_two_folders(tmp_path: Path) -> None:
    first, second = open_folder(None, tmp_path / "results"), open_folder(None, tmp_path / "results")
    assert first != second
    assert first.is_dir()
    assert second.is_dir()


def test_an_asked_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out"):
        open_folder(tmp_path / "file" / "below")


def test_no_place_at_all(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="tmpfs"):
        open_folder(None, tmp_path / "file" / "results")


def test_image_identity_comes_from_the_images_own_files(tmp_path: Path, monkeypatch: Any) -> None:
    assert identity.image(tmp_path) is None
    (tmp_path / "recipe.toml").write_text('name = "cpu"\n')
    (tmp_path / "lock.json").write_text("{}")
    (tmp_path / "image.json").write_text('{"name": "epbox:cpu", "id": "sha256:1"}')
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.delenv("EPBOX_IMAGE", raising=False)
    found = identity.image(tmp_path)
    assert found is not None
    assert (found.name, found.id, found.recipe) == ("epbox:cpu", "sha256:1", "cpu")
    assert found.lock == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_what_the_recipe_compiles_is_told_with_its_commits(tmp_path: Path) -> None:
    assert identity.compiled(tmp_path) == {}
    for name, parts in {"deepep-v1": {"nvshmem", "deepep"}, "deepep-v2": {"deepep", "fmt"}, "cpu": set()}.items():
        what = recipe.load_recipe(name)
        (tmp_path / "recipe.toml").write_text(render.recipe_text(what))
        found = identity.compiled(tmp_path)
        assert set(found) == parts and set(found.items()) <= set(identity.versions(tmp_path).items())
        for part, words in found.items():
            assert words.endswith(f"commit {sources.pinned(what)[part].commit}")
    (tmp_path / "recipe.toml").write_text("nvshmem = 1\n[deepep]\n")
    assert identity.compiled(tmp_path) == {}


def test_the_sbom_of_an_image_is_printed_and_of_nothing_else(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(identity.sbom, "__defaults__", (tmp_path,))
    monkeypatch.setattr(identity.image, "__defaults__", (tmp_path,))
    assert main(["version", "--sbom", "spdx"]) == 2
    assert "this runs from a checkout" in capsys.readouterr().err
    (tmp_path / "recipe.toml").write_text('name = "cpu"\n')
    assert main(["version", "--sbom", "cyclonedx"]) == 2
    assert "built without a lock" in capsys.readouterr().err
    (tmp_path / "sbom.spdx.json").write_text('{"é": 1}\n')
    assert main(["version", "--sbom", "spdx"]) == 0
    assert capsys.readouterr().out == '{"é": 1}\n'


def test_version_verb(capsys: Any) -> None:
    assert main(["version", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["epbox"] == __version__
    assert told["versions"]["psutil"]
    assert main(["--version"]) == 0
    assert "psutil" in capsys.readouterr().out
    assert "torch" not in sys.modules, "versions are read from metadata"


def test_reading_alltoall_lines_leaves_torn_ones_out(tmp_path: Path) -> None:
    record = {"test": "alltoall", "best": [], "complete": True, "correctness": {"passed": True}}
    line = "[alltoall] result " + json.dumps(record)
    log = tmp_path / "rank-0.log"
    log.write_text("\n".join([line[:40], "noise", f"[rank 0] {line}", "[alltoall] result [1]", line + " [rank 1] x"]))
    alltoall = Prepared("alltoall", "alltoall", (), False, {})
    runs, correctness = read_logs(alltoall, [log])
    assert len(runs) == 2
    assert correctness == Correctness(passed=True)
    log.write_text("[alltoall] result " + json.dumps({"correctness": {"passed": False, "failures": ["x"]}}))
    assert read_logs(alltoall, [log]) == Printed((), Correctness(passed=False, failures=("x",)))
    assert [run.test for run in parse_lines([f"1,0: {line}"])] == ["alltoall"]
    assert parse_lines([line[:40]]) == []


def test_doctor_gate_leaves_the_masters_reachability_to_the_rendezvous(make_job: Any, monkeypatch: Any, capsys: Any) -> None:
    from entrypoints.preflight import run as checks_of_doctor
    from entrypoints.results.model import Check

    asked: dict[str, Any] = {}
    statuses = {"net.master": "FAIL", "a": "FAIL", "b": "WARN", "c": "PASS"}

    def checks(workload: str, topology: Any, environ: Any) -> list[Check]:
        asked.update(workload=workload, nodes=environ["WORLD_SIZE"])
        return [Check(id=id, title="t", status=status, evidence="seen", remedy="do", source="src") for id, status in statuses.items()]

    monkeypatch.setattr(checks_of_doctor, "run_checks", checks)
    found = preflight.examine(make_job(nodes=2))
    assert found.failed == ("a",)
    assert asked == {"workload": "alltoall", "nodes": "2"}
    err = capsys.readouterr().err
    assert "doctor FAIL a: seen; do" in err
    assert "net.master" not in err


def test_family_names_in_the_images_environment_mean_auto(make_job: Any) -> None:
    from entrypoints.workloads import Request

    args = make_job().args
    workload, why = setup.pick(args, {"EPBOX_WORKLOAD": "deepep-v1"}, Request(1, 2))
    assert workload == "alltoall"
    assert why.startswith("auto: ")
    assert setup.pick(args, {"EPBOX_WORKLOAD": "deepep-intranode"}, Request(1, 2))[0] == "deepep-intranode"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_user_without_passwd_entry_gets_a_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgid(54321)
            os.setuid(54321)
            os.environ["TMPDIR"] = "/tmp"
            folder = open_folder(None, tmp_path / "results")
            code = 0 if "epbox-results-54321" in str(folder) else 2
            folder.rmdir()
            folder.parent.rmdir()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
