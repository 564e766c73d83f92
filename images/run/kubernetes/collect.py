"""A Kubernetes run's result folder, as bench leaves it on one machine: results by node, logs, and how each pod ended."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from entrypoints.bench.flow import append_index
from entrypoints.output import write_atomically

from .api import Document
from .logs import doctor_of, result_of
from .pods import Pod


def write(out: Path, documents: Sequence[Document], pods: Sequence[Pod], lines: Mapping[str, Sequence[str]], code: int, why: str) -> str:
    """Write the folder; one line that tells how the run went and where it is."""
    # A result folder is passed on.
    shown = [each for each in documents if each["kind"] != "Secret"]
    write_atomically(out / "manifest.yaml", yaml.safe_dump_all(shown, sort_keys=False))
    ordered = sorted(pods, key=lambda pod: (pod.rank is None, pod.rank or 0, pod.name))
    results: dict[int, dict[str, Any]] = {}
    doctors = 0
    for pod in ordered:
        log = lines.get(pod.name, ())
        stem = pod.label.replace(" ", "-")
        if log:
            write_atomically(out / f"{stem}.log", "\n".join(log) + "\n")
        found = result_of(log)
        if found is not None and pod.rank is not None:
            results[pod.rank] = found
            write_atomically(out / ("result.json" if pod.rank == 0 else f"result.{stem}.json"), json.dumps(found, indent=2) + "\n")
        elif pod.rank is None and (checked := doctor_of(log)) is not None:
            doctors += 1
            write_atomically(out / f"doctor.{stem}.json", json.dumps(checked, indent=2) + "\n")
    ends = [{key: value for key, value in asdict(pod).items() if key not in ("started", "waiting")} for pod in ordered]
    write_atomically(out / "pods.json", json.dumps({"exit_code": code, "why": why, "pods": ends}, indent=2) + "\n")
    if 0 in results:
        with suppress(KeyError):
            append_index(out, results[0])
    return f"{_verdict(ordered, results, doctors, code, why)}; results in {out}"


def _verdict(pods: Sequence[Pod], results: Mapping[int, Mapping[str, Any]], doctors: int, code: int, why: str) -> str:
    if code:
        return f"FAILED with exit code {code}: {why}"
    if 0 in results:
        return f"OK: {results[0].get('verdict', 'no verdict')}"
    if doctors:
        return f"OK: doctor passed on {doctors} of {len(pods)} nodes"
    # Kubelets rotate logs, 10 MiB by default: a claim keeps what a log cannot.
    return "OK, but no result stands in the log of node 0; --pvc CLAIM keeps it whatever the log does"
