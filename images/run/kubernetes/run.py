"""`k8s.run`: apply, follow every pod, collect the results, delete what was made, and end with the job's exit code."""

import copy
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from entrypoints.errors import UsageError
from entrypoints.output import say
from images.run.host import interruptible

from . import collect
from .api import ApiError, Cluster, Document
from .watch import Pace, Watch

#: On everything that one run makes: its pods are told from an earlier run's of the same name.
RUN_LABEL = "epbox.run"


@dataclass(frozen=True)
class RunOptions:
    """`out` is the result folder; `timeout` (seconds) bounds the whole run; `keep` leaves the objects in the cluster."""

    out: Path
    timeout: float = 3900
    keep: bool = False
    pace: Pace = field(default_factory=Pace)


def documents_of(text: str, where: str) -> list[Document]:
    """The objects of YAML text. Raises UsageError."""
    try:
        found = [each for each in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if each is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"no YAML: {' '.join(str(error).split())}", where=where) from None
    flat: list[Any] = []
    for each in found:
        flat += each.get("items") or [] if isinstance(each, dict) and each.get("kind") == "List" else [each]
    for each in flat:
        named = isinstance(each, dict) and isinstance(each.get("metadata"), dict) and isinstance(each["metadata"].get("name"), str)
        if not named or not isinstance(each.get("kind"), str) or not isinstance(each.get("apiVersion"), str):
            raise UsageError("a document lacks apiVersion, kind or metadata.name", where=where)
    if not any(True for _ in pod_templates(flat)):
        raise UsageError("nothing in it makes a pod", where=where, hint="./inv k8s.render writes what can be run")
    return flat


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod and pod template in a document: what has a spec with containers."""
    if isinstance(value, list):
        for each in value:
            yield from pod_templates(each)
    elif isinstance(value, dict):
        if isinstance(value.get("spec"), dict) and isinstance(value["spec"].get("containers"), list):
            yield value
        else:
            for each in value.values():
                yield from pod_templates(each)


def mark(documents: Sequence[Document], run_id: str, namespace: str) -> list[Document]:
    """The same objects in this namespace; they and their pods carry the run's label, and the program knows the run by EPBOX_RUN_ID."""
    marked = copy.deepcopy(list(documents))
    for document in marked:
        document["metadata"].setdefault("namespace", namespace)
        templates = list(pod_templates(document))
        for meta in [document["metadata"], *[each.setdefault("metadata", {}) for each in templates]]:
            meta["labels"] = {**(meta.get("labels") or {}), RUN_LABEL: run_id}
        for container in [each["spec"]["containers"][0] for each in templates]:
            container["env"] = [*(container.get("env") or []), {"name": "EPBOX_RUN_ID", "value": run_id}]
    return marked


def run(documents: Sequence[Document], cluster: Cluster, options: RunOptions) -> int:
    """Run to the end and return the job's exit code. What was made is deleted however this ends, unless `keep`.

    Raises UsageError, ApiError (exit 10), KeyboardInterrupt.
    """
    others = namespaces(documents) - {cluster.namespace}
    if others:
        raise UsageError(f"the objects are for {', '.join(sorted(others))}, not {cluster.namespace}", where="--namespace")
    _open(options.out)
    run_id = secrets.token_hex(4)
    made: list[Document] = []
    trying: list[Document] = []
    watch = None
    with interruptible():
        try:
            for document in mark(documents, run_id, cluster.namespace):
                trying = [document]
                made.append({**document, "metadata": cluster.create(document)["metadata"]})
                trying = []
            names = ", ".join(f"{each['kind']} {each['metadata']['name']}" for each in made[:4])
            more = f" and {len(made) - 4} more" if len(made) > 4 else ""
            say(f"k8s.run: made {names}{more} in namespace {cluster.namespace} of {cluster.where}")
            watch = Watch(cluster, made, f"{RUN_LABEL}={run_id}", options.pace)
            code, why = watch.until_ended(options.timeout)
        except KeyboardInterrupt:
            if watch is not None and watch.lines:
                collect.write(options.out, documents, list(watch.pods.values()), watch.lines, 130, "interrupted")
            raise
        finally:
            made += [found for each in trying for found in _made_unseen(cluster, each, run_id)]
            by_hand = _command(made, cluster.namespace, run_id)
            if made and options.keep:
                say(f"k8s.run: kept in the cluster; {by_hand}")
            elif made:
                _delete(cluster, made, by_hand)
            with suppress(OSError):
                # Goes only when empty.
                options.out.rmdir()
    verdict = collect.write(options.out, documents, list(watch.pods.values()), watch.lines, code, why)
    say(f"k8s.run: {verdict}")
    return code


def namespaces(documents: Sequence[Document]) -> set[str]:
    """Those that the objects name."""
    return {each["metadata"]["namespace"] for each in documents if each["metadata"].get("namespace")}


def _open(out: Path) -> None:
    """The result folder must be there to write, and hold no other run's result. Raises UsageError."""
    if any((out / name).exists() for name in ("result.json", "pods.json")):
        raise UsageError("holds an earlier result", where=f"--out {out}", hint="name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".writable").touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=f"--out {out}") from None


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
        for each in reversed(made):
            try:
                cluster.delete(each)
            except ApiError as error:
                left.append(f"{each['kind']} {each['metadata']['name']}: {error.what}")
    except KeyboardInterrupt:
        left.append("interrupted")
        raise
    finally:
        if left:
            say(f"k8s.run: not deleted: {'; '.join(left[:4])}; {by_hand}")


def _command(made: Sequence[Document], namespace: str, run_id: str) -> str:
    kinds = ",".join(dict.fromkeys(each["kind"].lower() for each in made))
    return f"kubectl delete {kinds} -n {namespace} -l {RUN_LABEL}={run_id}"
