"""./inv makes its .venv once, again when the requirements change or the checkout moves, and survives two first runs at once."""

import base64
import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def stub_wheel(folder: Path) -> str:
    """A wheel whose `invoke` command prints its arguments; its pip requirement line with hash."""
    files = {
        "stub_invoke.py": "import sys\ndef main():\n    print('stub', *sys.argv[1:])\n",
        "invoke-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: invoke\nVersion: 1.0\n",
        "invoke-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "invoke-1.0.dist-info/entry_points.txt": "[console_scripts]\ninvoke = stub_invoke:main\n",
    }
    record = "invoke-1.0.dist-info/RECORD"
    rows = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for name, text in files.items()
    ]
    path = folder / "invoke-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(record, "\n".join([*rows, f"{record},,"]) + "\n")
    return f"invoke==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "check out"
    (root / "requirements").mkdir(parents=True)
    shutil.copy("inv", root / "inv")
    (root / "images").mkdir()
    (root / "images" / "program.py").write_text("import stub_invoke\nstub_invoke.main()\n")
    (root / "requirements" / "dev.txt").write_text(stub_wheel(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri())
    return root


def start(root: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([str(root / "inv"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")


def test_two_first_runs_at_once_make_one_venv_and_a_third_makes_none(checkout: Path) -> None:
    ends = [(process, *process.communicate(timeout=120)) for process in [start(checkout, "a b", "c"), start(checkout, "--list")]]
    assert [process.returncode for process, _, _ in ends] == [0, 0], ends
    assert sorted(out for _, out, _ in ends) == ["stub --list\n", "stub a b c\n"]
    assert [err.count("making .venv") for _, _, err in ends if err] == [1]
    assert start(checkout, "again").communicate(timeout=120) == ("stub again\n", "")

    moved = checkout.rename(checkout.with_name("elsewhere"))
    out, err = start(moved, "x").communicate(timeout=120)
    assert (out, err.count("making .venv")) == ("stub x\n", 1)


def test_a_requirement_with_a_wrong_hash_leaves_no_usable_venv(checkout: Path) -> None:
    (checkout / "requirements" / "dev.txt").write_text(f"invoke==1.0 --hash=sha256:{'0' * 64}\n")
    process = start(checkout, "x")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert "installing the requirements failed" in err
    assert not (checkout / ".venv" / "epbox-stamp").exists()


def test_no_python_is_one_line(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dirname", "cmp", "cat", "mkdir", "flock", "id"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(["/bin/sh", str(checkout / "inv")], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "inv: needs python3 >= 3.10; install it (Debian, Ubuntu: apt-get install python3 python3-venv)\n"
