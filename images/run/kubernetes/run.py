"""`k8s.run`: apply, follow every pod, collect the results, delete what was made, and end with the job's exit code."""

import copy
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from entrypoints.errors import ExitCode, UsageError
from entrypoints.output import open_folder, say, write_atomically
from entrypoints.results import history
from entrypoints.results.codec import clean, decode
from entrypoints.results.model import Result
from images.run.host import interruptible
from images.run.kubernetes.api import ApiError, Cluster, Document, name_of
from images.run.kubernetes.pods import Pod, doctor_of, few, result_of
from images.run.kubernetes.watch import PACE, Pace, Watch

#: On everything that one run makes: its pods are told from an earlier run's of the same name.
RUN_LABEL = "epbox.run"


def documents_of(text: str, where: str) -> list[Document]:
    """The objects of YAML text. Raises UsageError."""
    try:
        loaded = [value for value in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if value is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"not YAML: {' '.join(str(error).split())}", where=where) from None
    documents: list[Any] = []
    for value in loaded:
        documents += value.get("items") or [] if isinstance(value, dict) and value.get("kind") == "List" else [value]
    if not all(map(_is_object, documents)):
        raise UsageError("a document lacks apiVersion, kind or metadata.name", where=where)
    if not any(True for _ in pod_templates(documents)):
        raise UsageError("nothing in it makes a pod", where=where, hint="./inv k8s.render writes what can be run")
    return documents


def _is_object(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("metadata"), dict):
        return False
    return all(isinstance(text, str) for text in (value["metadata"].get("name"), value.get("kind"), value.get("apiVersion")))


def pod_templates(value: Any) -> Iterator[Document]:
    """Every pod and pod template in a document: what has a spec with containers."""
    if isinstance(value, list):
        for item in value:
            yield from pod_templates(item)
    elif isinstance(value, dict):
        if isinstance(value.get("spec"), dict) and isinstance(value["spec"].get("containers"), list):
            yield value
        else:
            yield from pod_templates(list(value.values()))


def mark(documents: Sequence[Document], run_id: str, namespace: str) -> list[Document]:
    """The same objects in this namespace; they and their pods carry the run's label, and the program knows the run by EPBOX_RUN_ID."""
    marked = copy.deepcopy(list(documents))
    for document in marked:
        document["metadata"].setdefault("namespace", namespace)
        templates = list(pod_templates(document))
        for meta in [document["metadata"], *[template.setdefault("metadata", {}) for template in templates]]:
            meta["labels"] = {**(meta.get("labels") or {}), RUN_LABEL: run_id}
        for container in [template["spec"]["containers"][0] for template in templates]:
            container["env"] = [*(container.get("env") or []), {"name": "EPBOX_RUN_ID", "value": run_id}]
    return marked


def run(documents: Sequence[Document], cluster: Cluster, out: Path, *, timeout: float, keep: bool = False, pace: Pace = PACE) -> int:
    """Run to the end, results to folder `out`, and return the job's exit code. What was made is deleted however this ends, unless `keep`.

    `timeout` (seconds) bounds the whole run. Raises UsageError, ApiError (exit 10), KeyboardInterrupt.
    """
    others = namespaces(documents) - {cluster.namespace}
    if others:
        raise UsageError(f"the objects are for {', '.join(sorted(others))}, not {cluster.namespace}", where="--namespace")
    if any((out / name).exists() for name in ("result.json", "pods.json")):
        raise UsageError("holds an earlier result", where=f"--out {out}", hint="name a new folder")
    open_folder(out)
    run_id = secrets.token_hex(4)
    made: list[Document] = []
    begun: Document | None = None
    watch = None
    with interruptible():
        try:
            for document in mark(documents, run_id, cluster.namespace):
                begun = document
                made.append({**document, "metadata": cluster.create(document)["metadata"]})
                begun = None
            say(f"k8s.run: made {few([name_of(document) for document in made])} in namespace {cluster.namespace} of {cluster.where}")
            watch = Watch(cluster, made, f"{RUN_LABEL}={run_id}", pace)
            end = watch.until_ended(timeout)
        except KeyboardInterrupt:
            if watch is not None and watch.lines:
                pods = list(watch.pods.values())
                write_folder(out, documents, pods, watch.lines, ExitCode.INTERRUPTED.value, "interrupted")
            raise
        finally:
            made += _made_unseen(cluster, begun, run_id) if begun else []
            kinds = ",".join(dict.fromkeys(document["kind"].lower() for document in made))
            by_hand = f"kubectl delete {kinds} -n {cluster.namespace} -l {RUN_LABEL}={run_id}"
            if made and keep:
                say(f"k8s.run: kept in the cluster; {by_hand}")
            elif made:
                _delete(cluster, made, by_hand)
            with suppress(OSError):
                # Goes only when empty.
                out.rmdir()
    verdict = write_folder(out, documents, list(watch.pods.values()), watch.lines, end.exit_code, end.reason)
    say(f"k8s.run: {verdict}")
    return end.exit_code


def namespaces(documents: Sequence[Document]) -> set[str]:
    """Those that the objects name."""
    return {document["metadata"]["namespace"] for document in documents if document["metadata"].get("namespace")}


def _made_unseen(cluster: Cluster, document: Document, run_id: str) -> list[Document]:
    """An object that was made although its answer was lost, to a broken connection or to Ctrl-C."""
    try:
        meta = cluster.get(document)["metadata"]
    except ApiError:
        return []
    return [{**document, "metadata": meta}] if (meta.get("labels") or {}).get(RUN_LABEL) == run_id else []


def _delete(cluster: Cluster, made: Sequence[Document], by_hand: str) -> None:
    """Last made first. What cannot be deleted is said, with the command that would."""
    left = []
    try:
        for document in reversed(made):
            try:
                cluster.delete(document)
            except ApiError as error:
                left.append(f"{name_of(document)}: {error.what}")
    except KeyboardInterrupt:
        left.append("interrupted")
        raise
    finally:
        if left:
            say(f"k8s.run: not deleted: {'; '.join(left[:4])}; {by_hand}")


def write_folder(
    out: Path, documents: Sequence[Document], pods: Sequence[Pod], lines: Mapping[str, Sequence[str]], code: int, why: str
) -> str:
    """Write the result folder, as bench leaves it on one machine: results by node, logs, how each pod ended. A line that sums it up."""
    # A result folder is passed on.
    public = [document for document in documents if document["kind"] != "Secret"]
    write_atomically(out / "manifest.yaml", yaml.safe_dump_all(public, sort_keys=False))
    ordered = sorted(pods, key=lambda pod: (pod.rank is None, pod.rank or 0, pod.name))
    results: dict[int, Document] = {}
    doctors = 0
    for pod in ordered:
        log = lines.get(pod.name, ())
        stem = pod.label.replace(" ", "-")
        if log:
            write_atomically(out / f"{stem}.log", "\n".join(log) + "\n")
        document = result_of(log)
        if document is not None and pod.rank is not None:
            results[pod.rank] = document
            write_atomically(out / ("result.json" if pod.rank == 0 else f"result.{stem}.json"), json.dumps(document, indent=2) + "\n")
        elif pod.rank is None and (checked := doctor_of(log)) is not None:
            doctors += 1
            write_atomically(out / f"doctor.{stem}.json", json.dumps(checked, indent=2) + "\n")
    ends = [{key: value for key, value in asdict(pod).items() if key not in ("started", "waiting")} for pod in ordered]
    write_atomically(out / "pods.json", json.dumps({"exit_code": code, "why": why, "pods": ends}, indent=2) + "\n")
    if 0 in results:
        with suppress(UsageError):  # an image's program may be older or newer than this one
            history.append(out, decode(Result, results[0]))
    return f"{_verdict(ordered, results, doctors, code, why)}; results in {out}"


def _verdict(pods: Sequence[Pod], results: Mapping[int, Document], doctors: int, code: int, why: str) -> str:
    if code:
        return f"FAILED with exit code {code}: {why}"
    if 0 in results:
        return f"OK: {clean(str(results[0].get('verdict', 'no verdict')))}"
    if doctors:
        return f"OK: doctor passed on {doctors} of {len(pods)} nodes"
    # Kubelets rotate logs, 10 MiB by default: a claim keeps what a log cannot.
    return "OK, but no result stands in the log of node 0; --pvc CLAIM keeps it whatever the log does"
