"""RDMA loopback of each HCA with itself: ibv_rc_pingpong for the proof, ib_write_bw for a figure where perftest is installed."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from entrypoints.preflight.active.child import kill_group, run_command, start
from entrypoints.preflight.model import Answer, failed, not_run, passed


@dataclass(frozen=True)
class Loop:
    """One device's answer: which tool, the bandwidth in Gb/s when measured, and "" or the error."""

    device: str
    tool: str
    gbit: float | None = None
    error: str = ""


def tool_name() -> str | None:
    """The tool to use, or None when neither perftest nor ibverbs-utils is installed."""
    return next((name for name in ("ib_write_bw", "ibv_rc_pingpong") if shutil.which(name)), None)


def commands(tool: str, device: str, port: int, gid: int | None, tcp_port: int) -> tuple[list[str], list[str]]:
    """The server's and the client's command line; the GID index is needed on RoCE alone."""
    perftest = tool == "ib_write_bw"
    server = [tool, "-d", device, "-i", str(port), "-p", str(tcp_port)]
    server += ["-s", "65536", "-n", "1000", "-F", "--report_gbits"] if perftest else ["-n", "200"]
    if gid is not None:
        server += ["-x" if perftest else "-g", str(gid)]
    return server, [*server, "127.0.0.1"]


def bandwidth(tool: str, text: str) -> float | None:
    """Gb/s in a tool's output: perftest's average column, or pingpong's Mbit/sec line."""
    if tool == "ib_write_bw":
        match = re.search(r"^\s*65536\s+\d+\s+[\d.]+\s+([\d.]+)", text, re.MULTILINE)
        return float(match[1]) if match else None
    match = re.search(r"([\d.]+) Mbit/sec", text)
    return float(match[1]) / 1000 if match else None


def loop(tool: str, device: str, port: int, gid: int | None, timeout_s: float) -> Loop:
    """Run server and client of one tool on one device of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    server_command, client_command = commands(tool, device, port, gid, free_port)
    try:
        server = start(server_command, stderr=subprocess.STDOUT)
    except OSError as error:
        return Loop(device, tool, None, f"{tool}: {error.strerror}")
    end = time.monotonic() + timeout_s
    try:
        while True:
            text, errors, failure = run_command(client_command, timeout_s=max(1.0, end - time.monotonic()))
            output = f"{text}\n{errors}"
            # The server listens a moment after it started: the client is refused until then.
            early = failure and re.search("refused|Couldn't connect|Failed to connect", output) and server.poll() is None
            if not early or time.monotonic() >= end:
                break
            time.sleep(0.2)
        if not failure:
            return Loop(device, tool, bandwidth(tool, text))
        if server.poll() is not None and server.stdout is not None:
            output = server.stdout.read(4096) + output
        lines = [line.strip() for line in output.splitlines() if line.strip(" -")]
        return Loop(device, tool, None, f"{failure}: {lines[-1][:160] if lines else 'no output'}")
    finally:
        kill_group(server)
        server.wait(timeout=5)
        if server.stdout is not None:
            server.stdout.close()


def loops(tool: str, devices: list[tuple[str, int, int | None]], timeout_s: float) -> list[Loop]:
    """All devices, two at a time: more would share a host bridge and blur the figures."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(lambda item: loop(tool, item[0], item[1], item[2], timeout_s), devices))


def reached(loops: Sequence[Loop]) -> Answer:
    """A queue pair of each HCA reached itself on the chosen GID."""
    if not loops:
        return not_run("no active port")
    bad = [f"{item.device}: {item.error}" for item in loops if item.error]
    if bad:
        return failed("; ".join(bad), "the GID index (RoCE v2 IPv4), the netdev's address and state; rdma link; ibv_devinfo -v")
    evidence = ", ".join(f"{item.device} {item.gbit:.3g} Gb/s" if item.gbit is not None else f"{item.device} ok" for item in loops)
    return passed(f"{loops[0].tool}: {evidence}")
