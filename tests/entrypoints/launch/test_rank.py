"""rank.py runs any script that uses spawn as `python SCRIPT` would, with one rank in place of the spawned processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from entrypoints import ROOT
from tests.helpers.patience import busy
from tests.helpers.supervised import SOON_S, Supervised

RANK = ROOT / "entrypoints/launch/rank.py"

#: A stand-in with torch's layout: the package re-exports functions of its module `spawn`, under that very name.
FAKE_TORCH = {
    "torch/__init__.py": "from torch import multiprocessing\n",
    "torch/multiprocessing/__init__.py": "from multiprocessing import *\nfrom .spawn import spawn, start_processes, ProcessContext\n",
    "torch/multiprocessing/spawn.py": (
        "class ProcessContext: pass\n"
        "def spawn(fn, args=(), nprocs=1, join=True, daemon=False, start_method='spawn'): raise SystemExit('really spawned')\n"
        "def start_processes(fn, args=(), nprocs=1, join=True, daemon=False, start_method='spawn'): raise SystemExit('really spawned')\n"
    ),
}


@pytest.fixture
def torch(tmp_path: Path) -> Path:
    for name, text in FAKE_TORCH.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "site"


def run_rank(
    script: Path | str,
    *arguments: str,
    torch: Path | None = None,
    local_rank: int = 1,
    ranks: int = 4,
    cwd: Path = ROOT,
    direct: bool = False,
) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "EPBOX_LOCAL_RANK": str(local_rank), "EPBOX_LOCAL_RANKS": str(ranks), "PYTHONPATH": str(torch or "")}
    argv = [sys.executable, *([] if direct else [str(RANK)]), str(script), *arguments]
    return subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=busy(SOON_S))


SPAWNS = {
    "attribute": "import torch\ntorch.multiprocessing.spawn(work, args=('a', 2), nprocs=4)",
    "as mp": "import torch.multiprocessing as mp\nmp.spawn(work, args=('a', 2), nprocs=4, join=True)",
    "from package": "from torch.multiprocessing import spawn\nspawn(work, ('a', 2), 4)",
    "from module": "from torch.multiprocessing.spawn import spawn\nspawn(work, ('a', 2), 4, True, False, 'spawn')",
    "start_processes": "from torch.multiprocessing import start_processes as start\n"
    "start(work, args=['a', 2], nprocs=4, start_method='fork')",
    "from torch": "from torch import multiprocessing\nmultiprocessing.spawn(fn=work, args=('a', 2), nprocs=4, daemon=True)",
    "join=False": "import torch\nctx = torch.multiprocessing.spawn(work, ('a', 2), nprocs=4, join=False)\n"
    "while not ctx.join(timeout=1): pass\nprint(len(ctx.pids()))",
    "in a function": "def main():\n    import torch.multiprocessing as mp\n    mp.spawn(work, args=('a', 2), nprocs=4)\nmain()",
}


@pytest.mark.parametrize("form", SPAWNS)
def test_every_form_of_spawn_is_one_direct_call(torch: Path, tmp_path: Path, form: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import os\ndef work(rank, *args):\n    print('rank', rank, args, os.getpid() == START)\nSTART = os.getpid()\n{SPAWNS[form]}\n"
    )
    result = run_rank(script, torch=torch, local_rank=3)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "rank 3 ('a', 2) True"


def test_another_number_of_processes_than_planned_is_refused(torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "test_internode.py"
    script.write_text("import torch\ntorch.multiprocessing.spawn(print, nprocs=8)\n")
    result = run_rank(script, torch=torch, ranks=4)
    assert result.returncode == 2 and result.stdout == ""
    assert "spawns 8 processes, but the plan has 4 ranks" in result.stderr and "--num-processes 4" in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_in_the_function_fail_the_rank_with_the_scripts_own_traceback(torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    script.write_text(
        "import torch\ndef work(rank):\n    raise ValueError(f'rank {rank} is wrong')\ntorch.multiprocessing.spawn(work, nprocs=4)\n"
    )
    result = run_rank(script, torch=torch)
    assert result.returncode == 1
    assert "ValueError: rank 1 is wrong" in result.stderr and "bad.py" in result.stderr
    assert result.stderr.splitlines()[1].strip().startswith(f'File "{script}", line 4'), "the trace starts in the script"


def test_an_error_with_join_false_comes_out_of_join(torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import torch\ndef work(rank): raise ValueError('x')\n"
        "ctx = torch.multiprocessing.spawn(work, nprocs=4, join=False)\nprint('started')\nctx.join()\n"
    )
    result = run_rank(script, torch=torch)
    assert result.returncode == 1 and result.stdout == "started\n" and "ValueError: x" in result.stderr


def test_exit_in_the_function_ends_the_function_only(torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "exits.py"
    script.write_text(
        "import sys, torch\ndef work(rank, code): sys.exit(code)\n"
        "torch.multiprocessing.spawn(work, (0,), nprocs=4)\nprint('after')\n"
        "torch.multiprocessing.spawn(work, (3,), nprocs=4)\nprint('never')\n"
    )
    result = run_rank(script, torch=torch)
    assert (result.returncode, result.stdout) == (3, "after\n")


def test_spawn_may_be_called_again(torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "twice.py"
    script.write_text("import torch\nfor i in range(2): torch.multiprocessing.spawn(print, (i,), nprocs=4)\n")
    assert run_rank(script, torch=torch).stdout == "1 0\n1 1\n"


INTROSPECT = """
import json, sys, sibling
class Thing: pass
print(json.dumps({"argv": sys.argv, "path0": sys.path[0], "path": len(sys.path), "file": __file__, "name": __name__,
  "package": __package__, "spec": __spec__ is None, "doc": __doc__, "loader": type(__loader__).__name__, "sibling": sibling.VALUE,
  "class": Thing.__module__, "main": sys.modules["__main__"].Thing is Thing, "cached": __cached__ if "__cached__" in globals() else None,
  "torch": "torch" in sys.modules, "annotations": "__annotations__" in globals(),
  "names": sorted(n for n in globals() if n.startswith("__"))}))
"""


@pytest.mark.parametrize("how", ["absolute", "relative", "dotted", "link"])
def test_the_script_sees_what_python_would_show_it(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "tests here"
    folder.mkdir()
    (folder / "sibling.py").write_text("VALUE = 42\n")
    (folder / "script.py").write_text(INTROSPECT)
    (tmp_path / "link.py").symlink_to(folder / "script.py")
    script = {"absolute": str(folder / "script.py"), "relative": "script.py", "dotted": "./script.py", "link": "../link.py"}[how]
    seen = [json.loads(run_rank(script, "--x", "a b", cwd=folder, direct=direct).stdout) for direct in (True, False)]
    assert seen[0]["sibling"] == 42
    assert seen[1] == seen[0]


def test_a_module_can_be_the_target(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/tool.py").write_text("import sys\nprint(__name__, __package__, sys.argv[1:], sys.path[0])\n")
    result = run_rank("-m", "pkg.tool", "7", cwd=tmp_path)
    assert result.stdout == f"__main__ pkg ['7'] {tmp_path}\n", result.stderr


def test_worker_processes_of_the_script_still_work(tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(
        "import multiprocessing as mp\ndef square(x): return x * x\n"
        "if __name__ == '__main__':\n    with mp.get_context('spawn').Pool(2) as pool: print(pool.map(square, [2, 3]))\n"
    )
    result = run_rank(script)
    assert result.stdout == "[4, 9]\n", result.stderr


def test_torch_is_not_imported_by_the_launcher(torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "none.py"
    script.write_text("import sys\nprint([name for name in sys.modules if name.split('.')[0] in ('torch', 'entrypoints', 'pathlib')])\n")
    assert run_rank(script, torch=torch).stdout == "[]\n"


@pytest.mark.parametrize("bad", ["missing.py", "syntax.py", ""])
def test_a_script_that_cannot_run_fails_clearly(tmp_path: Path, bad: str) -> None:
    (tmp_path / "syntax.py").write_text("def (:\n")
    result = run_rank(tmp_path / bad)
    assert result.returncode != 0
    assert "rank.py" not in result.stderr.replace(f"{RANK}", "rank.py") or bad != "syntax.py"
    assert {"missing.py": "No such file", "syntax.py": "SyntaxError", "": "directory"}[bad] in result.stderr


def test_interrupt_ends_a_rank_by_the_signal(supervised: Supervised, tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    result = supervised.run(str(script), script=True, ranks=1)
    assert result.exit_code == 4 and "SIGINT" in result.cause


def test_ranks_of_a_script_under_the_supervisor(supervised: Supervised, torch: Path, tmp_path: Path) -> None:
    script = tmp_path / "all.py"
    script.write_text(
        "import os, torch\nheld = bytearray(40 << 20)\n"
        "def work(rank, n): print('rank', rank, 'of', n, os.environ['EPBOX_RANK'], sorted(os.sched_getaffinity(0)))\n"
        "torch.multiprocessing.spawn(work, (3,), nprocs=3)\n"
    )
    result = supervised.run(str(script), script=True, ranks=3, env={"PYTHONPATH": str(torch)})
    assert result.exit_code == 0, result.stderr
    cpu = min(__import__("os").sched_getaffinity(0))
    assert sorted(result.stderr.splitlines()) == [f"[rank {i}] rank {i} of 3 {i} [{cpu}]" for i in range(3)]
    for rank in result.ranks:
        found = rank["evidence"]
        assert found["policy"] == "prefer:0" and found["cpus"] == str(cpu)
        assert found["memory_bytes"]["0"] >= 40 << 20, "what the script still held at its end is counted"


def test_a_segfault_leaves_the_python_stack(supervised: Supervised, tmp_path: Path) -> None:
    script = tmp_path / "crash.py"
    script.write_text("import ctypes\ndef reads_null(): ctypes.string_at(0)\nreads_null()\n")
    result = supervised.run(str(script), script=True, ranks=1)
    assert result.exit_code == 4 and "SIGSEGV" in result.cause
    assert "reads_null" in result.ranks[0]["stacks"]
