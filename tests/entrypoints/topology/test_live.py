"""NVML beside sysfs: the GPUs that it lists, and which of them NVLink joins."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from entrypoints.topology import load
from entrypoints.topology.document import parse_document, to_document
from entrypoints.topology.live import nvlink_peers, with_nvml
from entrypoints.topology.model import Gpu, Topology
from entrypoints.topology.snapshot import take
from entrypoints.topology.sysfs import with_notes
from entrypoints.topology.tables import describe
from tests.helpers.sysfs_tree import build, gcp_a3u

A, B, C = "0000:10:00.0", "0000:20:00.0", "0000:30:00.0"


@pytest.mark.parametrize(
    ("links", "peers"),
    [
        # Through NVSwitches: all GPUs with a link to one.
        ([["switch"] * 18, ["switch"] * 18, []], [(1,), (0,), ()]),
        # Pairs without a switch.
        ([[B, B], [A, A], []], [(1,), (0,), ()]),
        # One visible GPU of several: its links lead to a switch, and to no GPU here.
        ([["switch"]], [()]),
        ([["0000:99:00.0"], [None], None], [(), None, None]),
    ],
)
def test_peers_by_the_ends_of_the_links(links: list[list[str | None] | None], peers: list[tuple[int, ...] | None]) -> None:
    assert [nvlink_peers(index, [A, B, C], links) for index in range(len(links))] == peers


class NVMLError(Exception):
    """As the binding's own."""


def fake_nvml(states: dict[str, list[int | None]], ends: dict[str, int]) -> SimpleNamespace:
    """pynvml of a host whose GPUs have these link states (None: not supported) and remote device types, by bus id."""

    def state(handle: str, link: int) -> int:
        value = states[handle][link] if link < len(states[handle]) else None
        if value is None:
            raise NVMLError
        return value

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_NVLINK_MAX_LINKS=18,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(states),
        nvmlDeviceGetHandleByIndex=lambda number: list(states)[number],
        nvmlDeviceGetPciInfo=lambda handle: SimpleNamespace(busId=handle.encode()),
        nvmlDeviceGetName=lambda _handle: b"NVIDIA H100",
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
        nvmlDeviceGetNvLinkState=state,
        nvmlDeviceGetNvLinkRemoteDeviceType=lambda handle, _link: ends[handle],
    )


def test_topology_says_the_links_that_the_driver_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One visible GPU of a host with NVSwitches: 18 active links, and no peer here."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({A: [1] * 18}, {A: 2}))
    gpus, warnings = with_nvml([Gpu(0, A, numa_node=1), Gpu(1, B)])
    assert warnings == []
    assert [(gpu.pci, gpu.name, gpu.numa_node, gpu.nvlink, gpu.nvlinks_active) for gpu in gpus] == [(A, "NVIDIA H100", 1, (), 18)]
    assert "- (18 active links)" in describe(Topology("live", gpus=tuple(gpus)))


def test_links_that_nvml_does_not_know_stay_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({B: [1, 0], A: [None]}, {B: 255}))
    gpus, _ = with_nvml([Gpu(0, A), Gpu(1, B)])
    # The end of B's link has neither a type nor a bus id; A has no NVLink state at all.
    assert [(gpu.index, gpu.pci, gpu.nvlink, gpu.nvlinks_active) for gpu in gpus] == [(0, A, None, None), (1, B, None, 1)]
    assert "? (1 active link)" in describe(Topology("live", gpus=tuple(gpus)))


def test_the_count_of_links_survives_our_json() -> None:
    topology = Topology("t", gpus=(Gpu(0, A, nvlink=(), nvlinks_active=18), Gpu(1, B)))
    assert parse_document(json.dumps(to_document(topology)), "t").gpus == topology.gpus


def test_a_snapshot_keeps_what_only_nvml_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build(tmp_path / "host", gcp_a3u())
    plain = load(str(root))
    ends = {gpu.pci or "": 2 for gpu in plain.gpus}
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml({pci: [1] * 18 for pci in ends}, ends))
    monkeypatch.setattr("entrypoints.topology.sysfs.with_verbs", lambda _tree, hcas: hcas)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(plain.allowed.cpus))
    data, live = take(str(root), live=True)
    assert [gpu.nvlink for gpu in live.gpus] == [tuple(j for j in range(8) if j != i) for i in range(8)]
    (tmp_path / "host.tar.gz").write_bytes(data)
    again = load(str(tmp_path / "host.tar.gz"))
    assert [(gpu.nvlink, gpu.nvlinks_active, gpu.name) for gpu in again.gpus] == [(gpu.nvlink, 18, gpu.name) for gpu in live.gpus]


@pytest.mark.parametrize(
    "notes", [b"{", b"[]", b'{"gpus": []}', b'{"gpus": {"0000:10:00.0": {"nvlink": ["x"], "nvlinks_active": -1, "numa_node": 1e9}}}']
)
def test_notes_of_another_form_are_passed_over(notes: bytes) -> None:
    assert with_notes([Gpu(0, A)], [], notes) == ([Gpu(0, A)], [])
