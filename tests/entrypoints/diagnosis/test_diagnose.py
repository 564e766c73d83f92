"""The verb, several logs, host facts, odd files, and the bundle."""

import gzip
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.__main__ import main
from entrypoints.diagnosis.bundle import redact, safe_environment
from entrypoints.diagnosis.facts import HostFacts
from entrypoints.diagnosis.match import diagnose_paths
from entrypoints.errors import UsageError
from entrypoints.results.model import Check
from tests.helpers.diagnosis import diagnose_lines

DOORBELL = [
    "WARN: GPU cannot map UAR of device mlx5_0. Skipping...",
    "init failed for transport: IBGDA",
    "init.cu:1037: non-zero status: 3 building transport map failed",
]
BEST = "[tuning] Best combine: SMs 24, NVL chunk 4, RDMA chunk 24: 61.72 GB/s (RDMA), 201.46 GB/s (NVL)"


def test_consequences_come_after_and_name_their_cause() -> None:
    findings = diagnose_lines(DOORBELL)
    assert [item.cause_id for item in findings] == ["gpu-doorbell-mapping", "no-remote-transport", "ibgda-init-failed"]
    assert [item.follows for item in findings] == [None, "gpu-doorbell-mapping", "gpu-doorbell-mapping"]
    assert (findings[0].line, findings[0].text) == (1, DOORBELL[0])


def test_a_run_that_fails_after_one_that_finished_has_failed() -> None:
    findings = diagnose_lines([DOORBELL[0], BEST, *DOORBELL])
    assert (findings[0].cause_id, findings[0].severity) == ("gpu-doorbell-mapping", "fatal")
    assert [item.severity for item in diagnose_lines([*DOORBELL[:2], BEST])] == ["benign", "benign"]


def test_the_root_in_one_log_explains_another(tmp_path: Path) -> None:
    (tmp_path / "rank0.log").write_text("waiting\nRuntimeError: DeepEP error: timeout (dispatch CPU)\n")
    (tmp_path / "rank1.log").write_text("hello\n\n" + "\n".join(DOORBELL))
    findings = diagnose_paths([tmp_path])
    assert findings[0].cause_id == "gpu-doorbell-mapping"
    assert (findings[0].log, findings[0].line) == (str(tmp_path / "rank1.log"), 3)
    assert "dispatch-timeout" in [item.cause_id for item in findings[1:]]


def test_interleaving_inside_a_line() -> None:
    line = (
        "/nv/ibrc.cpp:418: non-zero status: 110 /nv/ibrc.cpp:418: non-zero status: 110 WARN: WARN: ibv_modify_qp failed ep_connect failed"
    )
    assert diagnose_lines([line])[0].cause_id == "qp-connect-timeout"


def test_lines_that_differ_in_a_code_are_told_apart() -> None:
    lines = ["ibrc.cpp:418: non-zero status: 7 nothing", "ibrc.cpp:418: non-zero status: 101 ibv_modify_qp failed"]
    assert diagnose_lines(lines)[0].cause_id == "roce-gid"
    first = diagnose_lines(["x.cpp:1: non-zero status: 110 ibv_modify_qp failed", lines[1]])
    assert {item.cause_id for item in first} >= {"roce-gid", "qp-connect-timeout"}


def test_doctor_decides_between_causes() -> None:
    lines = ["init failed for transport: IBGDA", "nvshmem setup connections failed", "nvshmem initialization failed"]
    check = Check(id="gpu.regkeys", title="driver registry keys", status="FAIL", evidence="PeerMappingOverride is not set")
    (first, *_) = diagnose_lines(lines, HostFacts(checks=(check,)))
    assert first.cause_id == "gpu-doorbell-mapping"
    assert first.evidence == ("doctor: driver registry keys: PeerMappingOverride is not set",)


def test_a_plan_that_gives_one_nic_to_all() -> None:
    ranks = [{"local_rank": number, "gpu": {"index": number}, "hca": "mlx5_0"} for number in range(8)]
    (finding,) = diagnose_lines(["all fine"], HostFacts(plans=({"ranks": ranks},)))
    assert (finding.cause_id, finding.severity) == ("all-ranks-one-nic", "warning")


def test_a_second_host_with_its_own_devices() -> None:
    lines = [
        f"n{host}:{pid}:{pid} [0] NVSHMEM INFO NVSHMEM_ENABLE_NIC_PE_MAPPING = 0, device 0 setting dev_id = {pid}"
        for host in range(2)
        for pid in range(8)
    ]
    assert diagnose_lines(lines) == []


def test_healthy_lines_say_nothing() -> None:
    assert (
        diagnose_lines(["NCCL version 2.30.4+cuda13.0", "node:1:2 [0] NCCL INFO NET/Plugin: Failed to find ncclNetPlugin symbol", BEST])
        == []
    )
    assert diagnose_lines([]) == []


def test_an_unknown_failure_quotes_the_exception() -> None:
    lines = ["step 1", "[rank 3] Traceback (most recent call last):", '[rank 3]   File "x.py", line 1', "[rank 3] KeyError: 'gate'"]
    (finding,) = diagnose_lines(lines)
    assert (finding.cause_id, finding.severity, finding.line) == ("unknown", "fatal", 4)
    assert "KeyError: 'gate'" in finding.cause and "first error" in finding.cause


@pytest.mark.parametrize(
    ("data", "word"), [(b"", "empty"), (b"\x00\x01\x02\x03" * 9000, "binary"), (b"\x7fELF\x02\x01" + b"x" * 99, "binary")]
)
def test_files_that_are_no_log(data: bytes, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "some.log"
    path.write_bytes(data)
    assert main(["diagnose", str(path)]) == 2
    assert word in capsys.readouterr().err
    with pytest.raises(UsageError):
        diagnose_paths([path])


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.log.gz"
    path.write_bytes(gzip.compress("\n".join(DOORBELL).encode()))
    assert main(["diagnose", str(path), "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "epbox.diagnosis/1"
    assert {"cause_id", "severity", "cause", "remedy", "line", "text"} <= set(document["findings"][0])
    assert main(["diagnose", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("FATAL  gpu-doorbell-mapping") and "follows from gpu-doorbell-mapping" in out
    assert main(["diagnose", str(tmp_path / "absent")]) == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_other_encodings(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "run.log").write_bytes("\r\n".join(["hello there", *DOORBELL]).encode(encoding))
    assert (found := diagnose_paths([tmp_path / "run.log"])[0]).cause_id == "gpu-doorbell-mapping"
    assert (found.line, found.text) == (2, DOORBELL[0])


def test_a_log_whose_host_went_down(tmp_path: Path) -> None:
    """The file system had given it blocks that were never written."""
    (tmp_path / "run.log").write_bytes("\n".join(DOORBELL).encode() + b"\0" * 4096)
    assert diagnose_paths([tmp_path / "run.log"])[0].cause_id == "gpu-doorbell-mapping"


def test_facts_lie_beside_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank0.log").write_text("\n".join(DOORBELL))
    check = {"id": "gpu.handler", "title": "NIC handler", "status": "FAIL", "evidence": "CPU"}
    doctor = {"counts": {"FAIL": 1}, "failed": ["gpu.handler"], "checks": [check]}
    node = {"node_rank": 0, "hostname": "a", "doctor": doctor, "plan": {"ranks": []}}
    result = json.dumps({"schema": "epbox.result/1", "verdict": "failed", "shape": {}, "runs": [], "nodes": [node]})
    (tmp_path / "result.json").write_text(result)
    arguments = ["diagnose", str(tmp_path / "logs" / "rank0.log"), "--format", "json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["evidence"] == ["doctor: NIC handler: CPU"]
    (tmp_path / "result.json").write_text(result[:-9])
    (tmp_path / "doctor.json").write_text(json.dumps({"schema": "epbox.doctor/1", "checks": [check]}))
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["findings"][0]["evidence"] == ["doctor: NIC handler: CPU"]
    assert shown.err.startswith("note: ") and "result.json: invalid JSON" in shown.err and shown.err.count("\n") == 1


SECRETS = [
    "HF_TOKEN=hf_abcdefghijklmnop",
    "Authorization: Bearer abc.def-ghi_jkl12345",
    "git clone https://user:hunter2hunter2@host.example/x.git",
    '"aws_secret_access_key": "wJalrXUtnFEMIK7MDENGbPxRfiCY"',
    "docker login --password correcthorse",
    "ghp_0123456789abcdefABCDEF",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    "blob?sig=c2lnbmF0dXJl&x=1",
]
PLAIN = ["[config] num_tokens=4096, hidden=7168", "num_recv_tokens: -1", "mlx5_0:1", "NVSHMEM_HCA_LIST=mlx5_0:1", "token_idx"]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_redacted(text: str) -> None:
    hidden = ("hf_abc", "jkl12345", "hunter2", "wJalr", "correcthorse", "ghp_0", "b3Blbn", "c2lnb")
    assert not [word for word in hidden if word in redact(text)]
    assert "[redacted" in redact(text)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_the_environment_is_an_allowlist() -> None:
    environ = {
        "NVSHMEM_DEBUG": "INFO",
        "NCCL_TOKEN": "x",
        "HOME": "/root",
        "AWS_SECRET_ACCESS_KEY": "k",
        "RANK": "0",
        "EP_JIT_CACHE_DIR": "/c",
    }
    assert safe_environment(environ) == {"EP_JIT_CACHE_DIR": "/c", "NVSHMEM_DEBUG": "INFO", "RANK": "0"}


def test_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    (tmp_path / "run.log").write_text("\n".join([*DOORBELL, *SECRETS]))
    (tmp_path / "plan.json").write_text('{"ranks": []}')
    out = tmp_path / "deep" / "bundle.tar.gz"
    assert main(["diagnose", str(tmp_path / "run.log"), "--bundle", str(out), "--format", "json"]) == 0
    with tarfile.open(out) as archive:
        names = set(archive.getnames())
        text = "".join(stream.read().decode() for name in sorted(names) if (stream := archive.extractfile(name)))
    wanted = {"diagnosis.json", "environment.json", "host.json", "logs/000-run.log", "plan.json", "topology.json"}
    assert names == {f"epbox-bundle/{name}" for name in wanted}
    assert not [word for word in ("hunter2", "hf_abc", "0123456789abcdef", "WANDB") if word in text]
    assert list(out.parent.iterdir()) == [out]


@given(st.lists(st.binary(max_size=200), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_survived(lines: list[bytes]) -> None:
    found = diagnose_lines([*lines, b"x", *[line.encode() for line in DOORBELL]])
    assert "gpu-doorbell-mapping" in [item.cause_id for item in found]
