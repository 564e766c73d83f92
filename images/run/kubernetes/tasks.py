"""The k8s part of the menu. Both tasks take every field of ManifestOptions, so that the two and the manifest cannot differ."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import Task, task

from entrypoints.errors import UsageError
from images.menu import exit_code, show, words

from .options import ManifestOptions

#: Where an option is not called as its field.
_NAMES = {"arguments": "args"}


def _option(field: Field[Any]) -> tuple[str, Any]:
    """Name and default on the command line. Numbers are taken as words, so that a wrong one is an error in words."""
    default = field.default
    assert default is not MISSING
    if isinstance(default, bool) or field.name == "host_network":
        return field.name, bool(default)
    return _NAMES.get(field.name, field.name), "" if default in (None, ()) else str(default)


def _help(about: str, default: object) -> str:
    return f"{about} (default: {default})" if default and not isinstance(default, bool) and "default" not in about else about


def _chosen(c: Context, given: dict[str, Any]) -> ManifestOptions:
    """The options that were given, with their own types; words after -- are bench's as those of --args. Raises UsageError."""
    values: dict[str, Any] = {}
    for field in fields(ManifestOptions):
        value = given.pop(_option(field)[0])
        if field.name == "arguments":
            value = words(c, value)
        elif field.name == "host_network" or field.default is None:
            # Not given leaves it to the platform.
            value = value or None
        elif isinstance(field.default, int) and not isinstance(field.default, bool):
            value = number(value, "--" + field.name.replace("_", "-"))
        values[field.name] = value
    return ManifestOptions(**values)


def number(text: str, where: str) -> int:
    """A whole number. Raises UsageError."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text!r} is no whole number", where=where) from None


def _with_manifest_options(name: str, **about: str) -> Callable[[Callable[..., None]], Task[Any]]:
    """A task of this name with ManifestOptions' fields as options beside the body's own, which `about` tells of."""

    def wrap(body: Callable[..., None]) -> Task[Any]:
        own = [each for each in inspect.signature(body).parameters.values() if each.kind is not each.VAR_KEYWORD]
        options = [_option(field) for field in fields(ManifestOptions)]
        taken = {each.name for each in own}
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(each, keyword, default=default) for each, default in options if each not in taken]
        body.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        texts = {
            option: _help(field.metadata["about"], default)
            for (option, default), field in zip(options, fields(ManifestOptions), strict=True)
        }
        helps = {each.replace("_", "-"): text for each, text in {**texts, **about}.items()}
        made: Task[Any] = task(name=name, auto_shortflags=False, help=helps)(body)
        return made

    return wrap


@_with_manifest_options("render", kustomize="write a kustomize base and an overlay a platform to this folder instead")
def render(c: Context, kustomize: str = "", **given: Any) -> None:
    """Write a Kubernetes manifest to stdout, notes to stderr."""
    from entrypoints.output import say

    from . import manifests

    with exit_code("k8s.render"):
        given_platform = given["platform"] if given["platform"] != "generic" else ""
        options = _chosen(c, given)
        if kustomize:
            from . import kustomize as writer

            for path in writer.write(options, Path(kustomize)):
                print(path)
            if given_platform:
                say(f"note: --platform {given_platform} is not needed: every platform has its overlay")
            return
        show(manifests.render(options), manifests.notes(options))


@_with_manifest_options(
    "run",
    file="run this manifest instead of a rendered one (- is stdin)",
    out="result folder (default: results/<UTC time>)",
    timeout="seconds for the whole run (default: --deadline-seconds and five minutes)",
    keep="leave what was made in the cluster",
    kubeconfig="default: KUBECONFIG, ~/.kube/config, or the pod's own account",
    context="context of the kubeconfig (default: its current one)",
    namespace="default: the file's, else the context's",
)
def run(
    c: Context,
    file: str = "",
    out: str = "",
    timeout: str = "",
    keep: bool = False,
    kubeconfig: str = "",
    context: str = "",
    namespace: str = "",
    **given: Any,
) -> None:
    """Run a bench on a cluster: apply, follow, collect the results, clean up; exit with the job's code."""
    from dataclasses import replace

    from invoke.exceptions import Exit

    from entrypoints.bench.outdir import stamp
    from entrypoints.output import say

    from . import api, manifests
    from . import run as runner

    with exit_code("k8s.run"):
        options = _chosen(c, {**given, "namespace": namespace or "default"})
        seconds = number(timeout, "--timeout") if timeout else options.deadline_seconds + 300
        if seconds < 1:
            raise UsageError(f"{seconds} s", where="--timeout", hint="at least 1")
        documents = runner.documents_of(_text(file), file) if file else []
        if not file:
            manifests.check(options)
        named = runner.namespaces(documents)
        where_to = namespace or (named.pop() if len(named) == 1 else None)
        cluster = api.connect(Path(kubeconfig) if kubeconfig else None, context or None, where_to)
        if not file:
            options = replace(options, namespace=cluster.namespace)
            documents = runner.documents_of(manifests.render(options), "rendered manifest")
            for note in manifests.notes(options):
                say(f"note: {note}")
        where = Path(out) if out else Path("results") / stamp()
        code = runner.run(documents, cluster, runner.RunOptions(where, seconds, keep))
    if code:
        raise Exit(code=code)


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(Path(file).absolute())) from None


ns = Collection(render, run)
