"""A Docker daemon of our own for hosts without one: own data, sockets and namespaces, host networking, and an end that leaves nothing."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from entrypoints import ROOT
from entrypoints.errors import EngineError
from entrypoints.output import say
from images.command import probe

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # dockerd lies in sbin, which a user's PATH may lack
_SOCKET_LIMIT = 104  # containerd refuses longer ones (unix(7) itself allows 107)


@dataclass(frozen=True)
class Layout:
    """The private engine's folders; `run` holds sockets, so its path must be short."""

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
    def url(self) -> str:
        return f"unix://{self.run}/docker.sock"


def layout() -> Layout:
    """The state folder: EPBOX_STATE, else .state/ of the checkout."""
    state = Path(os.environ.get("EPBOX_STATE") or ROOT / ".state").absolute() / "engine"
    longest = state / "run" / "containerd" / "containerd-debug.sock"
    short = Path("/run") / f"epbox-{_key(state)}"
    return Layout(state, state / "run" if len(str(longest)) <= _SOCKET_LIMIT else short)


def start() -> bool:
    """Start the daemon unless it runs; False when it ran already. Two starters at once are safe: one waits for the other."""
    paths = layout()
    with _locked(paths):
        if daemon_pid(paths) is not None:
            return False
        dockerd = shutil.which("dockerd", path=PATH)
        if dockerd is None:
            raise EngineError("dockerd is not installed", hint="on Debian or Ubuntu: apt-get install docker.io")
        if os.geteuid() != 0:
            raise EngineError("a private engine needs root", hint="run as root, or set DOCKER_HOST to a daemon that you may use")
        paths.run.mkdir(parents=True, exist_ok=True)
        _end_leftovers(paths)  # of a daemon that was killed
        process = _spawn(dockerd, paths)
        try:
            _wait_until_up(process, paths)
        except BaseException:
            process.terminate()
            _end_leftovers(paths)
            raise
    say(f"private engine: started (pid {process.pid}, state in {paths.state})")
    return True


def stop() -> bool:
    """End the daemon, its containerd, its shims and every container they hold; False when nothing ran."""
    import psutil

    paths = layout()
    with _locked(paths):
        pid = daemon_pid(paths)
        if pid is not None:
            with suppress(psutil.Error):  # gone already, or still there: then it is killed with the rest
                daemon = psutil.Process(pid)
                daemon.terminate()
                daemon.wait(timeout=30)
        ended = _end_leftovers(paths)
        if paths.run != paths.state / "run":
            shutil.rmtree(paths.run, ignore_errors=True)
    return pid is not None or ended > 0


def daemon_pid(paths: Layout | None = None) -> int | None:
    """The pid of our running dockerd, checked against its command line (a stale pid file may name a stranger)."""
    import psutil

    paths = paths or layout()
    try:
        pid = int(paths.pid_file.read_text())
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if str(paths.data) in command else None


def ping(url: str) -> str | None:
    """The version of the daemon at `url`, or None. A socket file without a listener is no daemon."""
    path = Path(url.removeprefix("unix://"))
    if url.startswith("unix://") and not path.exists():
        return None
    import docker
    import requests

    try:
        with closing(docker.DockerClient(base_url=url, timeout=10)) as client:
            return str(client.version()["Version"])
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError):
        return None


def _spawn(dockerd: str, paths: Layout) -> "subprocess.Popen[bytes]":
    namespace = f"epbox-{_key(paths.state)}"
    command = [dockerd, "--host", paths.url, "--pidfile", str(paths.pid_file)]
    command += ["--data-root", str(paths.data), "--exec-root", str(paths.run)]
    # Host networking only: no bridge and no firewall rule, so that nothing outlives the daemon and no other daemon is disturbed.
    command += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--shutdown-timeout=5"]
    command += ["--containerd-namespace", namespace, "--containerd-plugins-namespace", f"{namespace}-plugins"]
    paths.state.mkdir(parents=True, exist_ok=True)
    with paths.log.open("wb") as log:
        environment = {**os.environ, "PATH": PATH}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment, cwd="/")


def _wait_until_up(process: "subprocess.Popen[bytes]", paths: Layout) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if ping(paths.url) is not None:
            return
        time.sleep(0.1)
    tail = " | ".join(paths.log.read_text(errors="replace").strip().splitlines()[-3:])
    raise EngineError(f"the private engine does not start: {tail}", where=str(paths.log), hint="or run without an image: --engine host")


def _end_leftovers(paths: Layout) -> int:
    """End what names our run folder on its command line (containerd, shims) with all descendants, and unmount what they held.

    The pid files and sockets that a killed daemon leaves go too: their numbers may be another process's by now. Returns the number ended.
    """
    import psutil

    family = {}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        named = any(str(folder) in word for word in command for folder in (paths.run, paths.data))
        if named and Path(command[0]).name.startswith(("dockerd", "containerd", "runc")):
            family[process.pid] = process
            with suppress(psutil.Error):
                family.update({child.pid: child for child in process.children(recursive=True)})
    for process in family.values():
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(family.values()), timeout=10)
    mounts = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in sorted(mounts, key=len, reverse=True):  # the deepest first
        if target.startswith((f"{paths.state}/", f"{paths.run}/")):
            probe(["umount", "--lazy", target])
    # dockerd takes any living process of the number in containerd.pid for its containerd, and then waits in vain for an answer.
    for path in (
        paths.pid_file,
        paths.run / "containerd" / "containerd.pid",
        *paths.run.glob("*.sock"),
        *paths.run.glob("containerd/*.sock*"),
    ):
        path.unlink(missing_ok=True)
    return len(family)


def _key(state: Path) -> str:
    return hashlib.sha256(str(state).encode()).hexdigest()[:8]


@contextmanager
def _locked(paths: Layout) -> Iterator[None]:
    try:
        paths.state.mkdir(parents=True, exist_ok=True)
        stream = (paths.state / "lock").open("w")
    except OSError as error:
        hint = "set EPBOX_STATE to a folder you may write"
        raise EngineError(f"cannot write: {error.strerror}", where=str(paths.state), hint=hint) from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
