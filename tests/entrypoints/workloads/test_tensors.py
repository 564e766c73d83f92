"""The tensor code against the plain definition, in a Python that has torch."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.helpers import torch_python

pytestmark = pytest.mark.torch


def test_tensor_code_agrees_with_the_definition() -> None:
    script = Path(__file__).with_name("tensor_checks.py")
    done = subprocess.run(
        [torch_python.need(), str(script)], env=torch_python.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tokens"] == 20 * (1 + 3 + 3 + 3 + 3)
    assert told["damages"] == 19
    assert len(told["errors"]) == 2
