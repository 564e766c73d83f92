"""NVLinks as topology and doctor tell of them, by a made-up NVML."""

import sys
from types import SimpleNamespace

import pytest

from entrypoints.preflight.gpu import nvlink
from entrypoints.preflight.live import read_gpus
from entrypoints.topology.live import with_nvml
from entrypoints.topology.model import Gpu
from tests.helpers.fake_host import FakeHost


class NVMLError(Exception):
    pass


def made_up_nvml(count: int, switched: bool = True, told: bool = True) -> SimpleNamespace:
    """An NVML of `count` GPUs with 18 NVLinks to switches, or with none, or one that says nothing of links."""

    def state(handle: int, link: int) -> int:
        if not told or link >= 18:
            raise NVMLError("not supported")
        return int(switched)

    def silent(*_: object) -> None:
        raise NVMLError("not supported")

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: count,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(busId=f"00000000:{handle + 1:02X}:00.0"),
        "nvmlDeviceGetName": lambda handle: "NVIDIA H200",
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetNvLinkState": state,
        "nvmlDeviceGetNvLinkRemoteDeviceType": lambda handle, link: 2,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (9, 0),
        "nvmlSystemGetCudaDriverVersion": silent,
        "nvmlSystemGetDriverVersion": silent,
        "nvmlDeviceGetP2PStatus": lambda handle, other, index: 0,
    }
    constants = {"NVML_CLOCK_SM": 1, "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1, "NVML_VOLATILE_ECC": 0, "NVML_NVLINK_MAX_LINKS": 24}
    return SimpleNamespace(NVMLError=NVMLError, **answers, **constants)


def both(fake: FakeHost, monkeypatch: pytest.MonkeyPatch, nvml: SimpleNamespace) -> tuple[list[tuple[int, ...] | None], str, str]:
    """Peers that topology tells, and doctor's status and evidence, by one NVML."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    gpus, warnings = with_nvml([Gpu(0, "0000:01:00.0"), Gpu(1, "0000:02:00.0")])
    assert warnings == []
    fake.probes.report = read_gpus()
    assert [gpu.arch for gpu in fake.probes.report.gpus] == ["sm_90", "sm_90"]
    answer = nvlink(fake.host())
    return [gpu.nvlink for gpu in gpus], answer.status, answer.evidence


def test_topology_tells_the_peers_whose_links_doctor_counts(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contradiction that was: doctor read 18 active NVLinks where `topology` printed NVLINK TO ?. Both read nvlink_states()."""
    peers, status, evidence = both(fake, monkeypatch, made_up_nvml(2))
    assert peers == [(1,), (0,)]
    assert (status, evidence) == ("PASS", "18 of 18 NVLinks active on each of 2 GPUs")


def test_links_that_are_down_join_nobody(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, status, evidence = both(fake, monkeypatch, made_up_nvml(2, switched=False))
    assert peers == [(), ()]
    assert (status, evidence) == ("FAIL", "no active NVLink: GPU0 0/18, GPU1 0/18")


def test_what_nvml_does_not_tell_stays_unknown_to_both(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, status, _ = both(fake, monkeypatch, made_up_nvml(2, told=False))
    assert peers == [None, None]
    assert status == "NOT_RUN"
