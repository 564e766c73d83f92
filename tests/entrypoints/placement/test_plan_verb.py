"""The plan verb: formats, contract, exit codes. Golden texts lie in tests/golden/plan (EPBOX_UPDATE_GOLDEN=1 renews them)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entrypoints.__main__ import main
from entrypoints.placement.model import Plan
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load
from entrypoints.topology.document import to_document
from entrypoints.topology.sysfs import read_sysfs
from tests.helpers import sysfs_tree
from tests.helpers.golden import expected
from tests.helpers.placing import ROOT

GOLDEN = ROOT / "tests" / "golden" / "plan"
PLAIN = ("NVSHMEM", "NCCL", "CUDA", "DEEP_EP", "EP_", "LOCAL_RANK")

SCHEMA = {
    "type": "object",
    "required": ["schema", "host", "source", "ranks", "excluded", "warnings"],
    "properties": {
        "schema": {"const": "epbox.plan/1"},
        "ranks": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["local_rank", "gpu", "hca", "port", "path", "numa_node", "cpus", "memory", "env", "reason"],
                "properties": {
                    "local_rank": {"type": "integer"},
                    "gpu": {
                        "type": ["object", "null"],
                        "required": ["index", "pci"],
                    },
                    "hca": {"type": ["string", "null"]},
                    "port": {"type": ["integer", "null"]},
                    "path": {"enum": ["PIX", "PXB", "PHB", "NODE", "SYS", None]},
                    "cpus": {"type": "string"},
                    "memory": {
                        "type": "object",
                        "properties": {"policy": {"enum": ["default", "preferred", "bind", "interleave"]}, "nodes": {"type": "array"}},
                    },
                    "env": {"type": "object", "additionalProperties": {"type": "string"}},
                    "reason": {"type": "string", "minLength": 1},
                },
            },
        },
        "excluded": {"type": "array", "items": {"type": "object", "required": ["hca", "reason"]}},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PLAIN):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset hosts, each as the document that the topology verb writes: one file, and quickly read."""
    folder = tmp_path_factory.mktemp("hosts")
    for name, host in sysfs_tree.PRESETS.items():
        (folder / name).write_text(json.dumps(to_document(read_sysfs(sysfs_tree.in_memory(host()), name))))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(["plan", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("name", sorted(sysfs_tree.PRESETS))
@pytest.mark.parametrize("form", ["table", "compare"])
def test_golden_tables(name: str, form: str, roots: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(roots)
    code, out, _ = run(capsys, "--topology", name, *(["--compare"] if form == "compare" else []))
    assert code == 0
    text = out[out.index("compare\n") :] if form == "compare" else out
    assert text == expected(GOLDEN / f"{name}.{form}.txt", text)


@pytest.mark.parametrize("name", sorted(sysfs_tree.PRESETS))
def test_json_contract(name: str, roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--topology", str(roots / name), "--format", "json", "--compare")
    document: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")
    jsonschema.validate(document, SCHEMA)
    assert [rank["local_rank"] for rank in document["ranks"]] == list(range(len(document["ranks"])))
    assert {"blog-ht", "nvshmem-ht", "nvshmem-ll", "nccl", "torchrun-node"} <= {rule["rule"] for rule in document["compare"]}


def shell(text: str, **environ: str) -> dict[str, str]:
    """What a POSIX shell has in its environment after it evaluated `text`."""
    script = 'eval "$1"; env -0'
    done = subprocess.run(
        ["sh", "-eu", "-c", script, "sh", text], env={"PATH": os.environ["PATH"], **environ}, capture_output=True, check=True
    )
    return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)


def test_env_of_one_rank_and_of_all(roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = str(roots / "azure_ndv5")
    code, one, _ = run(capsys, "--topology", host, "--format", "env", "--rank", "3")
    assert code == 0
    assert all(line.startswith("export ") for line in one.splitlines())
    assert shell(one)["NVSHMEM_HCA_LIST"] == "mlx5_ib3:1"
    _, every, _ = run(capsys, "--topology", host, "--format", "env")
    for rank in range(8):
        assert shell(every, LOCAL_RANK=str(rank))["NVSHMEM_HCA_LIST"] == f"mlx5_ib{rank}:1"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        shell(every)
    assert b"set LOCAL_RANK" in caught.value.stderr


def test_env_is_shell_safe() -> None:
    from entrypoints.placement.model import exports

    nasty = {"A": 'it\'s $(touch x) `y` "z" \\ ;&|\n#', "B": "", "C": "=mlx5_0:1,mlx5_1:1"}
    got = shell(exports(nasty))
    assert {name: got[name] for name in nasty} == nasty


def test_numactl_lines_run(roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--topology", str(roots / "gcp_a3u"), "--format", "numactl")
    lines = [line for line in out.splitlines() if not line.startswith("#")]
    assert code == 0 and len(lines) == 8
    assert "--physcpubind=0-13,112-125 --preferred=0 --" in lines[0]
    assert "NVSHMEM_IB_GID_INDEX=3" in lines[0]
    _, one, _ = run(capsys, "--topology", str(roots / "gcp_a3u"), "--format", "numactl", "--rank", "7")
    assert one.strip() == lines[7]


def test_rankfile(roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--topology", str(roots / "dgx_a100"), "--format", "rankfile")
    ranks = [line for line in out.splitlines() if line.startswith("rank ")]
    assert ranks[0].endswith("slot=48-55,176-183")
    assert len(ranks) == 8


def test_svg(roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from xml.etree import ElementTree

    code, out, _ = run(capsys, "--topology", str(roots / "gcp_a3u"), "--format", "svg")
    assert code == 0
    assert ElementTree.fromstring(out).tag.endswith("svg")
    assert "mlx5_7" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--ranks", "9"], 8, "9 ranks need 9 GPUs, this host shows 8"),
        (["--ranks", "0"], 2, "--ranks"),
        (["--hca", "0"], 2, "RANK=HCA"),
        (["--hca", "0=mlx5_77"], 2, "known: mlx5_an0, mlx5_ib0"),
        (["--hca", "0=mlx5_ib1", "--hca", "0=mlx5_ib2"], 2, "given twice"),
        (["--hca", "0=mlx5_ib1:7"], 2, "has no port 7"),
        (["--exclude-hca", "nope"], 2, "--exclude-hca nope: no HCA is called 'nope'"),
        (["--cores-per-rank", "13"], 2, "at most 12"),
        (["--rank", "1"], 2, "--format env"),
        (["--rank", "8", "--format", "env"], 2, "ranks 0-7"),
        (["--compare", "--format", "svg"], 2, "--compare"),
        (["--format", "yaml"], 2, "invalid choice"),
        (["--workload", "deepep-v9"], 2, "deepep-v9"),
    ],
)
def test_errors(arguments: list[str], code: int, text: str, roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got, out, err = run(capsys, "--topology", str(roots / "azure_ndv5"), *arguments)
    assert (got, out) == (code, "")
    assert text in err


def test_overrides_reach_the_plan(roots: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVSHMEM_HCA_LIST", "^mlx5_ib7")
    code, out, _ = run(
        capsys,
        *("--topology", str(roots / "azure_ndv5"), "--format", "json", "--ranks", "2", "--cores-per-rank", "4"),
        *("--hca", "0=mlx5_ib3:1", "--exclude-hca", "mlx5_ib0"),
    )
    document = json.loads(out)
    assert code == 0
    assert [rank["hca"] for rank in document["ranks"]] == ["mlx5_ib3", "mlx5_ib1"]
    assert [rank["cpus"] for rank in document["ranks"]] == ["0-3", "24-27"]
    reasons = {entry["hca"]: entry["reason"] for entry in document["excluded"]}
    assert reasons["mlx5_ib0"] == "excluded by --exclude-hca"
    assert reasons["mlx5_ib7"] == "excluded by NVSHMEM_HCA_LIST"


def test_live_host_has_a_plan() -> None:
    """Whatever this host is: with GPUs and HCAs or with neither."""
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints", "plan", "--format", "json", "--workload", "alltoall"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document["ranks"][0]["cpus"]


@pytest.mark.parametrize("name", sysfs_tree.PRESETS)
def test_the_document_reads_back_as_the_plan(roots: Path, name: str) -> None:
    plan = make_plan(load(str(roots / name)), PlanOptions(environ={}))
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == replace(plan, ranks=tuple(replace(rank, env={}) for rank in plan.ranks))
