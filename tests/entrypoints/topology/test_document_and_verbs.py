"""JSON round trip, the verbs topology and snapshot, the drawing."""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints.__main__ import main
from entrypoints.drawing.topology import draw
from entrypoints.errors import UsageError
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology import load
from entrypoints.topology.document import SCHEMA, parse_document, to_document
from entrypoints.topology.model import Hca, Port, Topology
from entrypoints.topology.snapshot import take
from entrypoints.topology.sysfs import read_sysfs
from entrypoints.verbs.snapshot import comparable
from tests.entrypoints.topology.conftest import Preset
from tests.helpers.sysfs_tree import PRESETS, GpuSpec, HcaSpec, Host, NodeSpec, build, gcp_a3u, in_memory, large

REPOSITORY = Path(__file__).parents[3]


def epbox(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "entrypoints", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", PRESETS)
def test_json_reads_back_to_an_equal_topology(preset: Preset, name: str) -> None:
    topology = preset(name)
    assert parse_document(json.dumps(to_document(topology)), name) == topology


@pytest.mark.parametrize("file", ["old-driver-names.txt", "ansi-glued-prompt.txt", "nccl-dump.xml"])
def test_json_of_text_sources_reads_back(data: Path, file: str) -> None:
    topology = load(str(data / file))
    assert parse_document(json.dumps(to_document(topology)), topology.source) == topology


def test_json_keys_that_scripts_rely_on(preset: Preset) -> None:
    document = to_document(preset("gcp_a3u"))
    assert document["schema"] == SCHEMA
    assert document["cpus"][1] == {"id": 1, "core": 1, "package": 0, "l3": 0, "siblings": [1, 113]}
    assert document["numa_nodes"][1]["distances"] == {"0": 21, "1": 10}
    assert document["numa_nodes"][0]["memory_bytes"] == 1 << 40
    assert document["allowed"] == {"cpus": "0-223", "mems": "0-1"}
    assert document["packages"] == [0, 1]
    assert {"gpu": 0, "hca": "mlx5_1", "path": "PIX", "stated": False} in document["paths"]


def test_nodes_outside_the_cpuset_stand_apart() -> None:
    host = Host((NodeSpec(0, (0, 1)), NodeSpec(1, (2, 3))), allowed_cpus="0-1", allowed_mems="0")
    topology = read_sysfs(in_memory(host), "m")
    document = to_document(topology)
    assert [node["id"] for node in document["numa_nodes"]] == [0]
    assert [node["id"] for node in document["other_nodes"]] == [1]
    assert parse_document(json.dumps(document), "m") == topology


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": "epbox.topology/1",\n "cpus": [}', r"f:2: is not JSON"),
        ("[1]", "not an object"),
        ('{"schema": "epbox.plan/1"}', "epbox.plan/1"),
        ('{"schema": "epbox.topology/1", "gpus": [{"index": "0"}]}', r"gpus\[0\]\.index"),
        ('{"schema": "epbox.topology/1", "gpus": [{"index": 0}, {"index": 0}]}', "twice"),
        ('{"schema": "epbox.topology/1", "hcas": [{}]}', r"hcas\[0\]"),
        ('{"schema": "epbox.topology/1", "numa_nodes": [{"id": 99999999}]}', "out of range"),
        ('{"schema": "epbox.topology/1", "paths": [{"gpu": 0, "hca": "a", "path": "NEAR", "stated": true}]}', "NEAR"),
        ('{"schema": "epbox.topology/1", "cpus": [{"id": 1e999}]}', "whole number"),
        *(
            (
                f'{{"schema": "epbox.topology/1", "hcas": [{{"name": "a", "ports": [{{"number": 1, "rate_gbps": {rate}}}]}}]}}',
                "out of range",
            )
            for rate in ("1" + "0" * 400, "NaN", "Infinity", "-1")
        ),
        ('{"schema": "epbox.topology/1", "cpus": ' + "9" * 6000 + "}", "not JSON"),
    ],
)
def test_wrong_json_says_where(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_document(text, "f")


def test_the_verb_in_every_format(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(data / "nccl-dump.xml")

    def output(*options: str) -> str:
        assert main(["topology", "--topology", source, *options]) == 0
        return capsys.readouterr().out

    assert re.search(r"^GPU1\s+SYS\s+PXB$", output(), re.MULTILINE)
    document = json.loads(output("--format", "json"))
    assert [hca["name"] for hca in document["hcas"]] == ["mlx5_0", "mlx5_1"]
    ET.fromstring(output("--format", "svg"))
    assert ET.fromstring(output("--format", "nccl-xml")).tag == "system"


def test_errors_of_the_verb_are_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("hello\n")
    for source in (str(tmp_path / "x"), str(tmp_path / "none"), str(tmp_path)):
        assert main(["topology", "--topology", source]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and source in error


def test_standard_input(data: Path) -> None:
    text = (data / "old-driver-names.txt").read_bytes()
    command = [sys.executable, "-m", "entrypoints", "topology", "--topology", "-", "--format", "json"]
    done = subprocess.run(command, cwd=REPOSITORY, input=text, capture_output=True, check=True)
    assert len(json.loads(done.stdout)["gpus"]) == 2


# The drawing


@pytest.mark.parametrize("name", [*PRESETS, "large"])
def test_drawing_shows_everything_once_and_inside(preset: Preset, name: str) -> None:
    topology = read_sysfs(in_memory(large()), "m") if name == "large" else preset(name)
    plan = make_plan(topology, PlanOptions(environ={}))
    svg = draw(topology, plan)
    root = ET.fromstring(svg)
    texts = ["".join(item.itertext()) for item in root.iter("{http://www.w3.org/2000/svg}text")]
    for gpu in topology.gpus:
        assert texts.count(f"GPU {gpu.index}") == 1
    for hca in topology.hcas:
        assert texts.count(hca.id) == 1
    # Each rank is named on its GPU and drawn to its HCA.
    assert svg.count('class="path"') == len(plan.ranks) + 1
    assert all(f"rank {rank.local_rank}" in texts for rank in plan.ranks)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    boxes = [
        tuple(float(item.get(key, 0)) for key in ("x", "y", "width", "height")) for item in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    cards = [
        box
        for box, item in zip(boxes, root.iter("{http://www.w3.org/2000/svg}rect"), strict=True)
        if "card" in (item.get("class") or "") and box[2] > 20
    ]
    assert len(cards) == len(topology.gpus) + len(topology.hcas)
    for i, (x, y, w, h) in enumerate(cards):
        assert not any(x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h for x2, y2, w2, h2 in cards[i + 1 :])
    assert "<script" not in svg and "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in svg


def test_drawing_escapes_names(preset: Preset) -> None:
    topology = preset("gcp_a3u")
    hostile = replace(topology, hostname='<b>"&', hcas=(replace(topology.hcas[0], name="<x>&", label="<x>&"),))
    ET.fromstring(draw(hostile))


@pytest.mark.parametrize(
    ("state", "card", "mark"),
    [("4: ACTIVE", "hca", "up"), ("PORT_ACTIVE", "hca", "up"), ("DOWN", "down", "off"), ("INACTIVE", "down", "off"), (None, "hca", None)],
)
def test_a_port_of_unknown_state_is_not_drawn_as_down(state: str | None, card: str, mark: str | None) -> None:
    svg = draw(Topology("t", hcas=(Hca("mlx5_0", "mlx5_0", ports=(Port(1, state),)),)))
    assert svg.count(f'class="card {card}"') == 2, "one in the legend"
    assert [kind for kind in ("up", "off") if f'r="3.5" class="{kind}"' in svg] == ([mark] if mark else [])


# The snapshot


def test_snapshot_replays_and_identifies_nothing(tmp_path: Path) -> None:
    node = NodeSpec(0, (0, 1), 1 << 20)
    secret = "b8ce:f603:00aa:bbcc"
    hcas = tuple(
        HcaSpec(
            f"0000:02:00.{i}",
            ("pci0000:00", "0000:00:02.0"),
            0,
            name=f"mlx5_{i}",
            guid=secret,
            netdev="enx001122334455" if i else "eth0",
            atomics=True,
        )
        for i in range(2)
    )
    port = gcp_a3u().hcas[1].ports
    gpus = (GpuSpec("0000:01:00.0", ("pci0000:00", "0000:00:01.0"), 0),)
    root = build(
        tmp_path / "root",
        Host((node,), gpus, (replace(hcas[0], ports=port), hcas[1]), pci_parent="VMBUS:00/47505500-0001-0000-3130-444531334632"),
    )
    (root / "sys/class/infiniband/mlx5_0/node_desc").write_text("secret-hostname\n")
    data, topology = take(str(root))
    assert take(str(root))[0] == data
    out = tmp_path / "out.tar.gz"
    out.write_bytes(data)
    again = load(str(out))
    assert comparable(again) == comparable(topology)
    assert [hca.atomics for hca in again.hcas] == [True, True]
    assert again.hcas[0].card == again.hcas[1].card != topology.hcas[0].card
    assert [gid.type for gid in again.hcas[0].ports[0].gids] == [gid.type for gid in topology.hcas[0].ports[0].gids]
    # Kinds of GIDs stay: a plan looks for the IPv4-mapped RoCE v2 one.
    assert [gid.gid[:29] for gid in again.hcas[0].ports[0].gids][2:] == ["0000:0000:0000:0000:0000:ffff"] * 2
    plain = gzip.decompress(data)
    for word in (b"b8ce:f603", b"001122334455", b"47505500", b"secret", b"0a00:", b"GPU-00000000-0000-4000-8000-000000000000"):
        assert word not in plain
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    assert not any(member.name.endswith(("/config", "/vpd", "node_desc", "node_guid")) or ".." in member.name for member in members)
    plans = [make_plan(host, PlanOptions(environ={})).to_json() for host in (topology, again)]
    assert plans[0]["ranks"] == plans[1]["ranks"]


def test_snapshot_verb_of_the_live_host(tmp_path: Path) -> None:
    out = tmp_path / "host.tar.gz"
    done = epbox("snapshot", str(out), "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["replays"] is True
    assert comparable(load(str(out))) == comparable(load(None))
    assert list(tmp_path.iterdir()) == [out]


def test_snapshot_to_nowhere_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["snapshot", str(tmp_path / "file" / "out.tar.gz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
