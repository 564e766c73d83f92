"""The GPU cases as tests: `EPBOX_GPU_ARGUMENTS="--v1 ... --v2 ..." pytest tests/gpu`. One run of run.py, one test a case."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).with_name("run.py")
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if shutil.which("nvidia-smi") is None or subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode:
        pytest.skip("no NVIDIA GPU here")
    arguments = os.environ.get("EPBOX_GPU_ARGUMENTS")
    if arguments is None:
        pytest.skip("EPBOX_GPU_ARGUMENTS is not set: run.py needs to know where DeepEP is (--v1 TREE)")
    out = tmp_path_factory.mktemp("gpu")
    python = os.environ.get("EPBOX_TEST_PYTHON", sys.executable)
    subprocess.run([python, str(RUN), "--out", str(out), *shlex.split(arguments)], check=False)
    found = json.loads((out / "summary.json").read_text())
    assert found, "no case was run"
    return list(found)


def test_every_case_ends_as_expected(results: list[dict[str, Any]]) -> None:
    wrong = {result["name"]: result["wrong"] for result in results if result["wrong"]}
    assert not wrong
