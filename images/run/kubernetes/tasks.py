"""The k8s part of the menu: a manifest's options and those of each task. What a task needs is imported when it runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.output import say
from images.menu import options_task
from images.options import Runner, option
from images.run.kubernetes import manifests
from images.run.kubernetes.manifests import ManifestOptions


@dataclass(frozen=True)
class RenderOptions(ManifestOptions):
    """Those of k8s.render."""

    kustomize: Path | None = option(  # noqa: RUF009 - a field
        None, "write a kustomize base and an overlay a platform to this folder instead", parse=Path
    )


@dataclass(frozen=True)
class RunTaskOptions(ManifestOptions):
    """Those of k8s.run: a manifest's, where it comes from if not from them, and the cluster."""

    namespace: str = option("", "default: the file's, else the context's")
    file: str = option("", "run this manifest instead of a rendered one (- is stdin)")
    out: str | None = option(None, "result folder (default: results/<UTC time>)")
    timeout: int | None = option(None, "seconds for the whole run (default: --deadline-seconds and five minutes)", kind=int)
    keep: bool = option(False, "leave what was made in the cluster")
    kubeconfig: str | None = option(None, "default: KUBECONFIG, ~/.kube/config, or the pod's own account")
    context: str | None = option(None, "context of the kubeconfig (default: its current one)")


def render_or_write(options: RenderOptions) -> str:
    """The manifest; with --kustomize the folders that were written instead, one a line. Raises UsageError."""
    if options.kustomize is None:
        return manifests.render(options)
    from images.run.kubernetes import kustomize

    return "".join(f"{path}\n" for path in kustomize.write(options, options.kustomize))


def render_notes(options: RenderOptions) -> Sequence[str]:
    """Lines that a person should read beside the manifest, or that a kustomization is for all platforms."""
    if options.kustomize is None:
        return manifests.notes(options)
    given = options.platform != "generic"
    return [f"--platform {options.platform} is not needed: every platform has its overlay"] if given else []


@options_task("k8s.run", RunTaskOptions, auto_shortflags=False)
def run_on_cluster(options: RunTaskOptions) -> int:
    """Run a bench on a cluster: apply, follow, collect the results, clean up; exit with the job's code."""
    from entrypoints.output import stamp
    from images.run.kubernetes import api, run

    timeout = options.deadline_seconds + 300 if options.timeout is None else options.timeout
    if timeout < 1:
        raise UsageError(f"{timeout} s", where="--timeout", hint="at least 1")
    if options.file:
        try:
            text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason, where = getattr(error, "strerror", None) or error, str(Path(options.file).absolute())
            raise UsageError(f"cannot be read: {reason}", where=where) from None
        documents = run.documents_of(text, options.file)
    else:
        manifests.check(replace(options, namespace=options.namespace or "default"))
        documents = []
    named = run.namespaces(documents)
    namespace = options.namespace or (named.pop() if len(named) == 1 else None)
    cluster = api.connect(Path(options.kubeconfig) if options.kubeconfig else None, options.context, namespace)
    if not options.file:
        options = replace(options, namespace=cluster.namespace)
        documents = run.documents_of(manifests.render(options), "rendered manifest")
        for note in manifests.notes(options):
            say(f"note: {note}")
    out = Path(options.out) if options.out else Path("results") / stamp()
    return run.run(documents, cluster, out, timeout=timeout, keep=options.keep)


RUNNER = Runner("k8s", "Write a Kubernetes manifest to stdout, notes to stderr.", RenderOptions, render_or_write, render_notes)
