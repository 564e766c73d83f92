"""RDMA loopback of each HCA with itself: ibv_rc_pingpong for the proof, ib_write_bw for a figure where perftest is installed."""

import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from entrypoints.preflight.active.child import kill_group, run_command


@dataclass(frozen=True)
class Loop:
    """One device's answer: which tool, the bandwidth in Gb/s when measured, and "" or the error."""

    device: str
    tool: str
    gbps: float | None = None
    error: str = ""


def tool_name() -> str | None:
    """The tool to use, or None when neither perftest nor ibverbs-utils is installed."""
    return next((name for name in ("ib_write_bw", "ibv_rc_pingpong") if shutil.which(name)), None)


def commands(tool: str, device: str, port: int, gid: int | None, tcp_port: int) -> tuple[list[str], list[str]]:
    """The server's and the client's command line; the GID index is needed on RoCE alone."""
    if tool == "ib_write_bw":
        base = [tool, "-d", device, "-i", str(port), "-p", str(tcp_port), "-s", "65536", "-n", "1000", "-F", "--report_gbits"]
        base += ["-x", str(gid)] if gid is not None else []
    else:
        base = [tool, "-d", device, "-i", str(port), "-p", str(tcp_port), "-n", "200"]
        base += ["-g", str(gid)] if gid is not None else []
    return base, [*base, "127.0.0.1"]


def bandwidth(tool: str, text: str) -> float | None:
    """Gb/s in a tool's output: perftest's average column, or pingpong's Mbit/sec line."""
    if tool == "ib_write_bw":
        found = re.search(r"^\s*65536\s+\d+\s+[\d.]+\s+([\d.]+)", text, re.MULTILINE)
        return float(found[1]) if found else None
    found = re.search(r"([\d.]+) Mbit/sec", text)
    return float(found[1]) / 1000 if found else None


def loop(tool: str, device: str, port: int, gid: int | None, timeout_s: float) -> Loop:
    """Run server and client of one tool on one device of this host."""
    server_command, client_command = commands(tool, device, port, gid, _free_port())
    try:
        server = subprocess.Popen(
            server_command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        return Loop(device, tool, None, f"{tool}: {error.strerror}")
    end = time.monotonic() + timeout_s
    try:
        while True:
            # The server listens a moment after it started: the client is refused until then.
            text, errors, failure = run_command(client_command, timeout_s=max(1.0, end - time.monotonic()))
            said = f"{text}\n{errors}"
            if (
                failure
                and re.search("refused|Couldn't connect|Failed to connect", said)
                and server.poll() is None
                and time.monotonic() < end
            ):
                time.sleep(0.2)
                continue
            break
        if failure:
            if server.poll() is not None and server.stdout is not None:
                said = server.stdout.read(4096).decode(errors="replace") + said
            lines = [line.strip() for line in said.splitlines() if line.strip(" -")]
            return Loop(device, tool, None, f"{failure}: {lines[-1][:160] if lines else 'no output'}")
        return Loop(device, tool, bandwidth(tool, text))
    finally:
        kill_group(server)
        server.wait(timeout=5)
        if server.stdout is not None:
            server.stdout.close()


def loops(tool: str, devices: list[tuple[str, int, int | None]], timeout_s: float) -> list[Loop]:
    """All devices, two at a time: more would share a host bridge and blur the figures."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda item: loop(tool, item[0], item[1], item[2], timeout_s), devices))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
