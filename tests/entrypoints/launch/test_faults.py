"""The fault matrix: each fault ends within its bound, with the documented exit code, the cause named and nothing left running."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.patience import busy
from tests.helpers.supervised import LONG_S, SOON_S, UP, Supervised, marked, wait_for, zombies_of

IDLE = f"import os, time; {UP}; time.sleep({LONG_S})"
#: The fault in rank 1 only, the other ranks idle.
ONE = f"import os, signal, sys, time\nif os.environ['EPBOX_RANK'] == '1':\n    {{fault}}\ntime.sleep({LONG_S})"


#: Ranks print until all of two have started: only then does silence count, however long the start takes.
TOGETHER = f"{UP}\nwhile len(os.listdir(os.environ['EPBOX_TEST_UP'])) < 2: print('not all have started'); time.sleep(0.05)\n"


def silence() -> float:
    """So long that no rank that prints again and again is that silent, as busy as the machine is now."""
    return float(round(busy(0.75)))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("print('no route to peer'); sys.exit(1)", ["rank 1 ", "exited with code 1", "no route to peer"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", ["rank 1 ", "SIGKILL"]),
        ("os.kill(os.getpid(), signal.SIGSEGV)", ["rank 1 ", "SIGSEGV"]),
        ("os.abort()", ["rank 1 ", "SIGABRT"]),
        ("raise RuntimeError('NCCL error 5')", ["rank 1 ", "exited with code 1", "RuntimeError: NCCL error 5"]),
    ],
)
def test_a_dead_rank_ends_all(supervised: Supervised, fault: str, words: list[str]) -> None:
    result = supervised.run(ONE.format(fault=fault), ranks=3)
    assert result.exit_code == 4
    assert all(word in result.cause for word in words), result.cause
    assert result.seconds < busy(SOON_S / 2)
    assert [rank["signal"] for rank in result.ranks if rank["rank"] != 1] == [signal.SIGTERM] * 2


def test_ranks_that_ignore_term_are_killed_after_the_grace(supervised: Supervised) -> None:
    everyone = "len(os.listdir(os.environ['EPBOX_TEST_UP'])) == 3"
    code = f"import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {UP}\n"
    code += ONE.format(fault=f"while not {everyone}: time.sleep(0.02)\n    sys.exit(7)")
    result = supervised.run(code, ranks=3, options={"grace_s": 0.5})
    assert result.exit_code == 4 and "code 7" in result.cause
    assert [rank["signal"] for rank in result.ranks if rank["rank"] != 1] == [signal.SIGKILL] * 2
    assert 0.5 < result.seconds < busy(SOON_S / 2)


def test_a_stopped_rank_is_a_hang(supervised: Supervised, tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(
        f"import os, signal, time\ndef waits_for_rank_one():\n    time.sleep({LONG_S})\n{TOGETHER}"
        "if os.environ['EPBOX_RANK'] == '1':\n    os.kill(os.getpid(), signal.SIGSTOP)\nwaits_for_rank_one()\n"
    )
    bound = silence()
    result = supervised.run(str(script), script=True, ranks=2, log_dir=str(tmp_path / "logs"), options={"timeout_s": bound})
    assert result.exit_code == 5
    assert f"no output of any rank for {bound:.0f} s" in result.cause and "rank 1 is stopped" in result.cause
    assert "waits_for_rank_one" in result.ranks[0]["stacks"]
    assert "waits_for_rank_one" in (tmp_path / "logs/rank-0.stacks").read_text()
    assert "stuck.py" in result.stderr, "the stacks are shown to people as well"
    assert result.seconds < busy(SOON_S / 2)


def test_a_hang_of_a_foreign_command_names_its_state(supervised: Supervised) -> None:
    result = supervised.run(f"import os, time; {TOGETHER}time.sleep({LONG_S})", options={"timeout_s": silence()})
    assert result.exit_code == 5 and "ranks 0-1 are sleeping" in result.cause
    assert result.seconds < busy(SOON_S / 2)


def test_output_puts_the_hang_off_and_the_total_bound_holds(supervised: Supervised) -> None:
    chatty = "import time\nwhile True:\n    print('tick'); time.sleep(0.1)"
    bound = silence()
    total = bound + 1
    result = supervised.run(chatty, options={"timeout_s": bound, "total_timeout_s": total})
    assert result.exit_code == 5 and f"did not end within {total:.0f} s" in result.cause
    assert total <= result.seconds < busy(SOON_S / 2)


def bulk(total_mb: int, kind: str) -> str:
    piece = {"lines": "b'x' * 99 + b'\\n'", "line": "b'x' * 100", "junk": "bytes(range(256))"}[kind]
    return (
        f"import sys\npiece = ({piece}) * 10000\nfor _ in range({total_mb} * 1000000 // len(piece)): sys.stdout.buffer.write(piece)\n"
        "print('\\nthe last words')"
    )


@pytest.mark.parametrize("kind", ["lines", "line", "junk"])
def test_a_flood_of_output_is_capped(supervised: Supervised, tmp_path: Path, kind: str) -> None:
    limits = {"log_limit": 4 << 20, "log_tail": 1 << 16}
    with (tmp_path / "stderr").open("wb") as stderr:
        result = supervised.run(bulk(100, kind), ranks=1, log_dir=str(tmp_path), options=limits, streams={"stderr": stderr})
    assert result.exit_code == 0
    assert result.outcome["rss_mib"] < 64
    log = (tmp_path / "rank-0.log").read_bytes()
    assert len(log) < (4 << 20) + (1 << 16) + 200
    assert b"bytes of output left out here" in log and log.endswith(b"the last words\n")
    assert b"[rank 0] the last words\n" in (tmp_path / "stderr").read_bytes()
    assert result.ranks[0]["evidence"]["output_left_out_bytes"] > 90_000_000


@pytest.mark.slow
def test_a_gigabyte_of_output_is_capped(supervised: Supervised, tmp_path: Path) -> None:
    result = supervised.run(bulk(1000, "lines"), ranks=1, log_dir=str(tmp_path), streams={"stderr": subprocess.DEVNULL}, bound_s=200)
    assert result.exit_code == 0 and result.outcome["rss_mib"] < 64
    assert (tmp_path / "rank-0.log").stat().st_size < 66 << 20


def test_closed_stdout_is_no_fault(supervised: Supervised) -> None:
    result = supervised.run("import os, time; os.close(1); os.close(2); time.sleep(0.3)")
    assert result.exit_code == 0


def test_children_that_hold_the_pipe_open_are_ended(supervised: Supervised) -> None:
    code = (
        "import os, signal, time\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.setsid()\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    if os.fork() == 0:\n"
        f"        time.sleep({LONG_S})\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print('done')"
    )
    result = supervised.run(code, ranks=2)
    assert result.exit_code == 0 and result.seconds < busy(SOON_S / 2)
    assert "2 processes that the ranks had left behind were ended" in result.stderr
    assert "[rank 1] done" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("stubborn", [False, True])
def test_signals_to_the_supervisor(supervised: Supervised, number: signal.Signals, stubborn: bool) -> None:
    ignore = "for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n" if stubborn else ""
    code = f"import os, signal, time\n{ignore}{UP}\ntime.sleep({LONG_S})"
    process = supervised.start(code, options={"grace_s": 0.5 if stubborn else SOON_S})
    supervised.wait_up(2)
    process.send_signal(number)
    result = supervised.finish(process)
    assert result.exit_code % 256 == 128 + number
    assert number.name in result.cause
    assert {rank["signal"] for rank in result.ranks} == {signal.SIGKILL if stubborn else number}
    assert result.seconds < busy(SOON_S / 2)


def test_a_rank_that_cleans_up_on_term_gets_to_do_so(supervised: Supervised, tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = f"import os, signal, sys, time\ndef bye(*_):\n    open({str(note)!r}, 'w').write('clean'); sys.exit(0)\n"
    code += f"signal.signal(15, bye)\n{UP}\ntime.sleep({LONG_S})"
    process = supervised.start(code, ranks=1, options={"grace_s": SOON_S})
    supervised.wait_up(1)
    process.send_signal(signal.SIGTERM)
    assert supervised.finish(process).exit_code == 143
    assert note.read_text() == "clean"


def test_a_killed_supervisor_takes_its_ranks_along(supervised: Supervised) -> None:
    process = supervised.start(IDLE)
    supervised.wait_up(2)
    process.kill()
    process.communicate()
    wait_for(lambda: marked(supervised.mark) == [])


def test_user_signals_are_passed_on(supervised: Supervised) -> None:
    code = "import os, signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: (print('checkpoint'), sys.exit(0)))\n"
    process = supervised.start(f"{code}{UP}\ntime.sleep({LONG_S})")
    supervised.wait_up(2)
    process.send_signal(signal.SIGUSR1)
    result = supervised.finish(process)
    assert result.exit_code == 0 and result.stderr.count("checkpoint") == 2


def test_a_full_disk_stops_the_log_not_the_run(supervised: Supervised, tmp_path: Path) -> None:
    (tmp_path / "rank-0.log").symlink_to("/dev/full")
    result = supervised.run("print('x' * 100000); print('still here')", log_dir=str(tmp_path))
    assert result.exit_code == 0 and "[rank 0] still here" in result.stderr
    assert "No space left on device" in result.stderr
    assert "No space left" in result.ranks[0]["evidence"]["log_error"] and result.ranks[1]["evidence"]["log_error"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_really_full_disk(supervised: Supervised, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("this container may not mount a tmpfs: give it CAP_SYS_ADMIN")
    try:
        result = supervised.run("print('x' * 100000); print('still here')", log_dir=str(tmp_path / "logs"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert result.exit_code == 0 and "[rank 0] still here" in result.stderr and "No space left on device" in result.stderr


def test_a_log_folder_that_cannot_be_made(supervised: Supervised, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = supervised.run("print('hello')", log_dir=str(tmp_path / "file/logs"))
    assert result.exit_code == 0 and "[rank 1] hello" in result.stderr and "Not a directory" in result.stderr


def test_a_reader_that_stops_reading_does_not_block_the_supervisor(supervised: Supervised) -> None:
    code = f"import os; {UP}\nwhile True: print('x' * 1000)"
    bound = silence()
    process = supervised.start(code, options={"timeout_s": bound, "grace_s": 0.5})
    supervised.wait_up(2)
    time.sleep(bound + 0.5)
    assert process.poll() is None, "a slow reader is no hang of the ranks"
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    wait_for(lambda: len(marked(supervised.mark)) <= 1)
    result = supervised.finish(process, begun=begun)
    assert result.exit_code == 143 and result.seconds < busy(SOON_S / 2)


def test_a_reader_that_goes_away_does_not_end_the_run(supervised: Supervised, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = supervised.start(
        "import time\nfor i in range(50): print(i); time.sleep(0.01)", ranks=1, log_dir=str(tmp_path), streams={"stderr": writer}
    )
    os.close(writer)
    os.close(reader)
    assert supervised.finish(process).exit_code == 0
    assert (tmp_path / "rank-0.log").read_text().endswith("49\n")


def test_what_cannot_be_started_is_said_before_anything_runs(supervised: Supervised, tmp_path: Path) -> None:
    plain = tmp_path / "data.txt"
    plain.write_text("no program")
    for command, words in (("no-such-cmd", "no such command"), (str(plain), "is not executable"), (str(tmp_path), "is a directory")):
        result = supervised.cli("exec", "--ranks", "2", "--", command)
        assert result.exit_code == 2 and words in result.stderr and "Traceback" not in result.stderr
    plain.chmod(0o755)
    result = supervised.cli("exec", "--ranks", "2", "--", str(plain))
    assert result.exit_code == 2 and "Exec format error" in result.stderr


def test_no_zombie_while_the_run_goes_on(supervised: Supervised) -> None:
    code = "import os, time\nif os.fork() == 0:\n    if os.fork() == 0: time.sleep(0.1)\n    os._exit(0)\nos.wait()\n"
    process = supervised.start(f"{code}{UP}\ntime.sleep({LONG_S})")
    supervised.wait_up(2)
    # The orphans end, and are reaped while their ranks go on.
    wait_for(lambda: len(marked(supervised.mark)) == 3 and zombies_of(process.pid) == [])
    process.send_signal(signal.SIGTERM)
    result = supervised.finish(process)
    assert result.exit_code == 143 and "had left behind" not in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_as_pid_one(supervised: Supervised) -> None:
    wrap = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("this container may not make a PID namespace: give it CAP_SYS_ADMIN")
    code = f"import os, signal, time\nif os.fork() == 0:\n    os.setsid()\n    {UP}\n    time.sleep({LONG_S})\ntime.sleep({LONG_S})"
    process = supervised.start(code, prefix=wrap)
    supervised.wait_up(2)
    inner = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.kill(inner, signal.SIGTERM)
    result = supervised.finish(process)
    assert result.exit_code == 143 and result.cause == "stopped by SIGTERM" and result.seconds < busy(SOON_S / 2)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal; PID 1 of a namespace does not feel one it has none for."""
    found = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> number - 1 & 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_as_pid_one_term_ends_every_verb_at_once(supervised: Supervised) -> None:
    wrap = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("this container may not make a PID namespace: give it CAP_SYS_ADMIN")
    waits = [sys.executable, "-m", "entrypoints", "plan", "--topology", "-"]
    process = supervised.popen(waits, prefix=wrap, streams={"stdin": subprocess.PIPE})
    wait_for(lambda: len(marked(supervised.mark)) == 2)
    inner = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    wait_for(lambda: catches(inner, signal.SIGTERM))
    os.kill(inner, signal.SIGTERM)
    wait_for(lambda: process.poll() is not None)
    assert supervised.finish(process).exit_code == 143


def test_the_callers_state_is_put_back() -> None:
    from entrypoints.launch.model import LaunchOptions, RankCommand
    from entrypoints.launch.supervisor import run
    from entrypoints.placement.model import RankPlan

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    affinity = os.sched_getaffinity(0)
    bystander = subprocess.Popen(["sleep", "30"])
    outcome = run([RankCommand(RankPlan(0, cpus=(min(affinity),)), ("true",))], LaunchOptions(quiet=True))
    assert outcome.exit_code == 0 and outcome.ranks[0].record.exit_code == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)] == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert os.sched_getaffinity(0) == affinity
    assert bystander.poll() is None, "a child that was there before is not a leftover of the run"
    bystander.kill()
    bystander.wait()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
