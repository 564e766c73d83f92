"""A Docker daemon of our own for hosts without one: own data, sockets and namespaces, host networking, and an end that leaves nothing."""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from entrypoints import ROOT
from entrypoints.errors import EngineError
from entrypoints.output import say

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # dockerd lies in sbin, which a user's PATH may lack
_SOCKET_LIMIT = 104  # containerd refuses longer ones (unix(7) itself allows 107)
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Layout:
    """Where the private engine keeps what; `run` holds sockets, so its path must be short."""

    state: Path
    run: Path

    @property
    def data(self) -> Path:
        return self.state / "data"

    @property
    def log(self) -> Path:
        return self.state / "dockerd.log"

    @property
    def pid_file(self) -> Path:
        return self.run / "docker.pid"

    @property
    def socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def containerd_pid_file(self) -> Path:
        """Written by dockerd, which takes any living process of this number for its containerd and then waits in vain for an answer."""
        return self.run / "containerd" / "containerd.pid"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


def layout() -> Layout:
    """The state folder: EPBOX_STATE, else .state/ of the checkout."""
    state = Path(os.environ.get("EPBOX_STATE") or ROOT / ".state").absolute() / "engine"
    longest = state / "run" / "containerd" / "containerd-debug.sock"
    short = Path("/run") / f"epbox-{_key(state)}"
    return Layout(state, state / "run" if len(str(longest)) <= _SOCKET_LIMIT else short)


def start() -> bool:
    """Start the daemon unless it runs; False when it ran already. Two starters at once are safe: one waits for the other."""
    place = layout()
    with _locked(place):
        if daemon_pid(place) is not None:
            return False
        dockerd = shutil.which("dockerd", path=PATH)
        if dockerd is None:
            raise EngineError("dockerd is not installed", hint="on Debian or Ubuntu: apt-get install docker.io")
        if os.geteuid() != 0:
            raise EngineError("a private engine needs root", hint="run as root, or set DOCKER_HOST to a daemon that you may use")
        place.run.mkdir(parents=True, exist_ok=True)
        _end_leftovers(place)  # of a daemon that was killed
        process = _spawn(dockerd, place)
        try:
            _wait_until_up(process, place)
        except BaseException:
            process.terminate()
            _end_leftovers(place)
            raise
    say(f"private engine: started (pid {process.pid}, state in {place.state})")
    return True


def stop() -> bool:
    """End the daemon, its containerd, its shims and every container they hold; False when nothing ran."""
    place = layout()
    with _locked(place):
        pid = daemon_pid(place)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            _wait_gone(pid, _STOP_SECONDS)
        ended = _end_leftovers(place)
        if place.run != place.state / "run":
            shutil.rmtree(place.run, ignore_errors=True)
    return pid is not None or ended > 0


def daemon_pid(place: Layout | None = None) -> int | None:
    """The pid of our running dockerd, checked against its command line (a stale pid file may name a stranger)."""
    import psutil

    place = place or layout()
    try:
        pid = int(place.pid_file.read_text())
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if str(place.data) in command else None


def _spawn(dockerd: str, place: Layout) -> "subprocess.Popen[bytes]":
    namespace = f"epbox-{_key(place.state)}"
    command = [
        dockerd,
        "--data-root",
        str(place.data),
        "--exec-root",
        str(place.run),
        "--host",
        place.url,
        "--pidfile",
        str(place.pid_file),
    ]
    # Host networking only: no bridge and no firewall rule, so that nothing outlives the daemon and no other daemon is disturbed.
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--shutdown-timeout=5"]
    command += ["--containerd-namespace", namespace, "--containerd-plugins-namespace", f"{namespace}-plugins"]
    place.state.mkdir(parents=True, exist_ok=True)
    with place.log.open("wb") as log:
        environment = {**os.environ, "PATH": PATH}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment, cwd="/")


def _wait_until_up(process: "subprocess.Popen[bytes]", place: Layout) -> None:
    from .engine import ping

    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if place.socket.exists() and ping(place.url) is not None:
            return
        time.sleep(0.1)
    tail = " | ".join(place.log.read_text(errors="replace").strip().splitlines()[-3:])
    raise EngineError(f"the private engine does not start: {tail}", where=str(place.log), hint="or run without an image: --engine host")


def _end_leftovers(place: Layout) -> int:
    """End what names our run folder on its command line (containerd, shims) with all descendants, unmount what they held, and remove
    the pid files and sockets that a killed daemon leaves: their numbers may be another process's by now."""
    import psutil

    mine = [process for process in psutil.process_iter(["cmdline"]) if _is_ours(process.info["cmdline"] or [], place)]
    family = {process.pid: process for process in mine}
    for process in mine:
        try:
            family.update({child.pid: child for child in process.children(recursive=True)})
        except psutil.Error:
            continue
    for process in family.values():
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(list(family.values()), timeout=10)
    for target in _mounts_below(place):
        subprocess.run(["umount", "--lazy", target], capture_output=True)
    for path in (place.pid_file, place.containerd_pid_file, *place.run.glob("*.sock"), *place.run.glob("containerd/*.sock*")):
        path.unlink(missing_ok=True)
    return len(family)


def _is_ours(command: list[str], place: Layout) -> bool:
    name = Path(command[0]).name if command else ""
    return name.startswith(("dockerd", "containerd", "runc")) and any(str(place.run) in word or str(place.data) in word for word in command)


def _mounts_below(place: Layout) -> list[str]:
    """Mount points in our folders, the deepest first."""
    targets = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((t for t in targets if t.startswith((f"{place.state}/", f"{place.run}/"))), key=len, reverse=True)


def _wait_gone(pid: int, seconds: float) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)


def _key(state: Path) -> str:
    return hashlib.sha256(str(state).encode()).hexdigest()[:8]


@contextmanager
def _locked(place: Layout) -> Iterator[None]:
    try:
        place.state.mkdir(parents=True, exist_ok=True)
        stream = (place.state / "lock").open("w")
    except OSError as error:
        raise EngineError(
            f"cannot write: {error.strerror}", where=str(place.state), hint="set EPBOX_STATE to a folder you may write"
        ) from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
