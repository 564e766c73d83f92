"""exec: one bound rank under any launcher, and N supervised ranks without one."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.helpers.supervised import Supervised

CPUS = sorted(os.sched_getaffinity(0))
#: What a rank sees of itself, in one JSON line.
LOOK = "import json, os; print(json.dumps([os.environ['EPBOX_LOCAL_RANK'], sorted(os.sched_getaffinity(0)), os.getpid()]))"
TORCHRUN = "import json, os; print(json.dumps({n: os.environ.get(n) for n in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')}))"


@pytest.mark.parametrize(
    "environ",
    [
        {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
        {"SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0"},
        {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
        {"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
        {"PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "2"},
    ],
)
def test_each_launcher_gives_its_rank_its_place(supervised: Supervised, environ: dict[str, str]) -> None:
    process = supervised.popen([sys.executable, "-m", "entrypoints", "exec", "--", sys.executable, "-c", LOOK], environ=environ)
    result = supervised.finish(process)
    assert result.exit_code == 0, result.stderr
    local_rank, affinity, pid = json.loads(result.stdout)
    planned = json.loads(supervised.cli("plan", "--ranks", "2", "--format", "json").stdout)["ranks"][1]["cpus"]
    assert local_rank == "1" and pid == process.pid, "the process became the command"
    assert ",".join(map(str, affinity)) == planned.replace("-", ",")


def test_bind_none_leaves_the_affinity_and_strict_passes_here(supervised: Supervised) -> None:
    environ = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    free = supervised.cli("exec", "--bind", "none", "--", sys.executable, "-c", LOOK, environ=environ)
    assert json.loads(free.stdout)[1] == CPUS
    if len(CPUS) > 1:
        bound = supervised.cli("exec", "--bind", "cpu", "--strict", "--", sys.executable, "-c", LOOK, environ=environ)
        assert bound.exit_code == 0 and len(json.loads(bound.stdout)[1]) < len(CPUS)


def elsewhere(folder: Path, cpus: str, node: int) -> Path:
    """A host as a JSON topology whose CPUs and node this one does not have."""
    first, _, last = cpus.partition("-")
    ids = list(range(int(first), int(last or first) + 1))
    host = {
        "schema": "epbox.topology/1",
        "packages": [0],
        "cpus": [{"id": i, "core": i, "package": 0, "l3": 0, "siblings": [i]} for i in ids],
        "numa_nodes": [{"id": node, "cpus": ids, "memory_bytes": 1 << 34, "distances": {str(node): 10}}],
        "gpus": [],
        "hcas": [],
        "allowed": {"cpus": cpus, "mems": str(node)},
    }
    path = folder / "other.json"
    path.write_text(json.dumps(host))
    return path


@pytest.mark.parametrize("supervise", [False, True])
def test_strict_and_a_plan_of_another_host(supervised: Supervised, tmp_path: Path, supervise: bool) -> None:
    host = str(elsewhere(tmp_path, "1000-1003", 900))
    ranks = ["--ranks", "2"] if supervise else []
    loose = supervised.cli("exec", "--topology", host, *ranks, "--", sys.executable, "-c", LOOK)
    assert loose.exit_code == 0, loose.stderr
    assert "none of the planned CPUs" in loose.stderr and "widen its cpuset" in loose.stderr
    strict = supervised.cli("exec", "--topology", host, "--strict", *ranks, "--", sys.executable, "-c", LOOK)
    assert strict.exit_code == 3 and "none of the planned CPUs" in strict.stderr and strict.stdout == ""


def test_the_exit_code_of_one_rank_is_the_commands(supervised: Supervised) -> None:
    assert supervised.cli("exec", "--", "sh", "-c", "exit 7", environ={"LOCAL_RANK": "0"}).exit_code == 7


def test_supervised_ranks_get_torchruns_variables_and_split_output(supervised: Supervised) -> None:
    code = TORCHRUN + "; import sys; print('to stderr', file=sys.stderr)"
    result = supervised.cli("exec", "--ranks", "3", "--", sys.executable, "-c", code)
    assert result.exit_code == 0, result.stderr
    found = {line.split("] ", 1)[0]: json.loads(line.split("] ", 1)[1]) for line in result.stdout.splitlines()}
    assert found == {f"[rank {i}": {"RANK": str(i), "WORLD_SIZE": "3", "LOCAL_RANK": str(i), "LOCAL_WORLD_SIZE": "3"} for i in range(3)}, (
        "stdout has the ranks' stdout and nothing else"
    )
    assert result.stderr.count("to stderr") == 3


def test_ranks_are_numbered_over_the_nodes(supervised: Supervised) -> None:
    environ = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    result = supervised.cli("exec", "--ranks", "2", "--", sys.executable, "-c", TORCHRUN, environ=environ)
    assert result.exit_code == 0, result.stderr
    found = sorted((json.loads(line.split("] ", 1)[1]) for line in result.stdout.splitlines()), key=lambda each: each["RANK"])
    assert [each["RANK"] for each in found] == ["2", "3"] and {each["WORLD_SIZE"] for each in found} == {"4"}


def test_logs_and_failures(supervised: Supervised, tmp_path: Path) -> None:
    code = "[ $EPBOX_RANK = 0 ] && sleep 300; echo out; echo err >&2; exit 3"
    result = supervised.cli("exec", "--ranks", "2", "--log-dir", str(tmp_path / "logs"), "--", "sh", "-c", code)
    assert result.exit_code == 4 and "exited with code 3" in result.stderr
    assert sorted((tmp_path / "logs/rank-1.log").read_text().split()) == ["err", "out"]


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        ([], {}, "no command given"),
        (["--bind", "gpu", "--", "true"], {}, "is not a way to bind"),
        (["--ranks", "0", "--", "true"], {}, "0 ranks"),
        (["--", "no-such-command"], {"LOCAL_RANK": "0"}, "no such command"),
        (["--", "true"], {"LOCAL_RANK": "5"}, "does not tell how many ranks share a node"),
        (["--ranks", "4", "--", "true"], {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE=8"),
        (["--timeout", "-1", "--ranks", "1", "--", "true"], {}, "--timeout"),
        (["--timeout", "9", "--", "true"], {}, "--timeout: is for ranks that exec starts itself; give --ranks N too"),
        (["--log-dir", "logs", "--", "true"], {"LOCAL_RANK": "0"}, "--log-dir: is for ranks that exec starts itself; leave it to torchrun"),
    ],
)
def test_usage_errors(supervised: Supervised, arguments: list[str], environ: dict[str, str], words: str) -> None:
    result = supervised.cli("exec", *arguments, environ=environ)
    assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr, result.stderr
