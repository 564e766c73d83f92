"""Run the checks of a workload within a bounded time, whatever the host answers."""

import os
import queue
import re
import sysconfig
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.preflight.files import Files, NotReadable
from entrypoints.preflight.live import LiveProbes, NoProbes, Probes
from entrypoints.preflight.model import ALLTOALL, EVERY, V1, V2, Answer, Check, CheckResult, Host, not_run
from entrypoints.preflight.registry import relevant
from entrypoints.topology.model import Topology

#: All checks together, and one alone, in seconds.
TOTAL_S, ONE_S = 3.0, 1.5
#: Reading the topology takes tenths of a second; whoever does not answer within this hangs.
TOPOLOGY_S = 10.0


def workload_of(name: str) -> str:
    """The family whose checks apply: "deepep_v1" is deepep-v1, and so is bench's deepep-internode. Raises UsageError."""
    from entrypoints import workloads

    word = name.strip().lower().replace("_", "-")
    for family in (V1, V2, ALLTOALL):
        if word == family or word.startswith(family + "-"):
            return family
    if word in workloads.names():
        return workloads.get(word).placement
    hint = f"one of auto, {', '.join(sorted(EVERY))}, or a workload of bench ({', '.join(workloads.names())})"
    raise UsageError(f"unknown workload {name!r}", where="--for", hint=hint)


def default_workload(files: Files, environ: Mapping[str, str]) -> str:
    """EPBOX_WORKLOAD, else the workload of the image's recipe (/opt/epbox/recipe.toml), else deepep-v1."""
    if environ.get("EPBOX_WORKLOAD"):
        return environ["EPBOX_WORKLOAD"]
    # One top-level key: not worth a TOML parser, which Python 3.10 does not have.
    found = re.search(r'^workload\s*=\s*"([^"\n]+)"', files.maybe("opt/epbox/recipe.toml") or "", re.MULTILINE)
    return found[1] if found else V1


def make_host(
    workload: str,
    topology: Topology,
    root: Path | Files = Path("/"),
    environ: Mapping[str, str] | None = None,
    *,
    nodes: int | None = None,
    probes: Probes | None = None,
    log: str | None = None,
) -> Host:
    """A Host for `root`, a folder or Files; WORLD_SIZE gives the number of nodes when the caller does not."""
    environ = os.environ if environ is None else environ
    files = root if isinstance(root, Files) else Files(Path(root))
    text = environ.get("WORLD_SIZE", "")
    if nodes is None and text.isascii() and text.isdecimal() and len(text) < 7:
        nodes = int(text)
    asked: Probes = probes if probes is not None else LiveProbes() if files.live else NoProbes()
    return Host(files, environ, topology, asked, workload_of(workload), nodes, log, _site(files))


def _site(files: Files) -> tuple[str, ...]:
    """Folders of Python packages: this interpreter's, then every usual one below the root."""
    found = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]] if files.live else []
    for base in ("usr/local/lib", "usr/lib", "opt/venv/lib", "opt/epbox/venv/lib"):
        for name in files.maybe_names(base):
            if re.fullmatch(r"python3(\.\d+)?", name):
                found += [f"{base}/{name}/{kind}" for kind in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys(folder.strip("/") for folder in found))


def run_checks(
    workload: str,
    topology: Topology,
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    *,
    nodes: int | None = None,
    probes: Probes | None = None,
    log: str | None = None,
    total_s: float | None = None,
    one_s: float | None = None,
) -> list[CheckResult]:
    """All checks that `workload` needs, each PASS, WARN, FAIL or NOT_RUN; never an exception of a check, never longer than `total_s`."""
    host = make_host(workload, topology, root, environ, nodes=nodes, probes=probes, log=log)
    return run_on(host, relevant(host.workload), total_s=total_s, one_s=one_s)


def run_on(host: Host, checks: Sequence[Check], *, total_s: float | None = None, one_s: float | None = None) -> list[CheckResult]:
    """The given checks on one host, in order, within TOTAL_S all together and ONE_S each unless told otherwise."""
    total_s = TOTAL_S if total_s is None else total_s
    one_s = ONE_S if one_s is None else one_s
    end = time.monotonic() + total_s
    results: list[CheckResult] = []
    for check in checks:
        left = min(one_s, end - time.monotonic())
        answer = _bounded(check, host, left) if left > 0 else not_run(f"the {total_s:g} s of one doctor run were used up")
        results.append(CheckResult(check.id, check.title, answer.status, answer.evidence, answer.remedy, check.source))
    return results


def load_topology(source: str | None, seconds: float = TOPOLOGY_S) -> tuple[Topology, CheckResult | None]:
    """The topology, or an empty one and a FAIL when the live host's drivers do not answer in time."""
    from entrypoints.topology import load

    box: queue.SimpleQueue[Topology | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            box.put(load(source))
        except BaseException as error:
            box.put(error)

    threading.Thread(target=work, name="topology", daemon=True).start()
    try:
        found = box.get(timeout=None if source else seconds)
    except queue.Empty:
        evidence = f"no answer from sysfs, NVML or libibverbs within {seconds:g} s"
        remedy = "a driver hangs: dmesg for Xid and mlx5_core errors, then reset the device or reboot"
        return Topology("live"), CheckResult("host.topology", "devices answer", "FAIL", evidence, remedy, "docs/doctor.md")
    if isinstance(found, BaseException):
        raise found
    return found, None


def _bounded(check: Check, host: Host, seconds: float) -> Answer:
    """One check in a thread of its own: a read that blocks in the kernel is left behind, not waited for."""
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put(check.run(host))
        except NotReadable as error:
            answers.put(not_run(str(error)))
        except Exception as error:
            # A defect of a check must not hide the other checks; it is shown, and never a PASS.
            answers.put(
                not_run(f"the check itself broke: {type(error).__name__}: {error}", "please report this with the output of epbox snapshot")
            )

    threading.Thread(target=work, name=check.id, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return not_run(f"no answer within {seconds:.1f} s")
