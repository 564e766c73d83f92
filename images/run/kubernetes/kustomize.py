"""A kustomize base and an overlay a platform, for people who prefer files.

An overlay's patch is the difference between two renderings of the same templates, the base's and the platform's: nothing is
written down twice. JSON patches (RFC 6902) are taken, since kustomize has no merge rules for the operators' kinds.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from entrypoints.errors import UsageError
from images.run.kubernetes import manifests
from images.run.kubernetes.api import Document
from images.run.kubernetes.manifests import ManifestOptions, platforms

_MARK = "# Written by ./inv k8s.render --kustomize; it replaces this whole folder."
_BASE = "generic"


def difference(old: Any, new: Any, path: str = "") -> Iterator[Document]:
    """The operations of RFC 6902 that make `new` from `old`, to be applied in this order."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": at}
            elif key not in old:
                yield {"op": "add", "path": at, "value": new[key]}
            else:
                yield from difference(old[key], new[key], at)
    elif isinstance(old, list) and isinstance(new, list) and (kept := _kept_items(old, new)) is not None:
        for i, value in enumerate(new):
            if i in kept:
                yield from difference(kept[i], value, f"{path}/{i}")
            else:
                yield {"op": "add", "path": f"{path}/{i}", "value": value}
    elif old != new or type(old) is not type(new):
        # Python takes True for 1; JSON does not.
        yield {"op": "replace", "path": path, "value": new}


def _kept_items(old: list[Any], new: list[Any]) -> dict[int, Any] | None:
    """Old items by the index that they have in `new`, by name where they have names; None when one is gone or moved."""
    kept: dict[int, Any] = {}
    rest = list(old)
    for i, value in enumerate(new):
        if rest and _name(rest[0]) == _name(value):
            kept[i] = rest.pop(0)
    return None if rest else kept


def _name(item: Any) -> Any:
    return item.get("name") if isinstance(item, dict) else None


def files(options: ManifestOptions) -> dict[str, str]:
    """Every file's text by its path in the folder. Raises UsageError."""
    base = replace(options, platform=_BASE)
    texts = {"base/manifest.yaml": manifests.render(base), "base/kustomization.yaml": _kustomization({"resources": ["manifest.yaml"]})}
    documents = _documents(base)
    for platform in platforms().values():
        if platform.name == _BASE or options.workload in platform.refuse:
            continue
        folder = f"overlays/{platform.name}"
        overlay = replace(options, platform=platform.name)
        patches: list[Document] = []
        for text, targets in _patches(documents, _documents(overlay)).items():
            file = f"patch-{targets[0]['kind'].lower()}{f'-{len(patches)}' if len(patches) else ''}.json"
            texts[f"{folder}/{file}"] = text
            patches += [{"path": file, "target": target} for target in targets]
        content = {"resources": ["../../base"], **({"patches": patches} if patches else {})}
        texts[f"{folder}/kustomization.yaml"] = _kustomization(content, platform.title, *manifests.notes(overlay))
    return texts


def _documents(options: ManifestOptions) -> list[Document]:
    return list(yaml.load_all(manifests.render(options), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _patches(old: list[Document], new: list[Document]) -> dict[str, list[Mapping[str, str]]]:
    """Patch files' texts, each with the objects it is for; a kind whose objects all change alike is one target."""
    by_text: dict[str, list[Document]] = {}
    for before, after in zip(old, new, strict=True):
        operations = list(difference(before, after))
        if operations:
            by_text.setdefault(json.dumps(operations, indent=2) + "\n", []).append(before)
    count = Counter(document["kind"] for document in old)
    result: dict[str, list[Mapping[str, str]]] = {}
    for text, changed in by_text.items():
        alike = {kind for kind, times in Counter(document["kind"] for document in changed).items() if times == count[kind]}
        others = [(document["kind"], document["metadata"]["name"]) for document in changed if document["kind"] not in alike]
        result[text] = [*({"kind": kind} for kind in sorted(alike)), *({"kind": kind, "name": name} for kind, name in others)]
    return result


def _kustomization(content: Mapping[str, Any], *about: str) -> str:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    comments = "".join(f"# {line}\n" for line in about)
    return f"{_MARK}\n{comments}{yaml.safe_dump({**head, **content}, sort_keys=False)}"


def write(options: ManifestOptions, out: Path) -> list[Path]:
    """Write the folder as a whole, in place of an earlier one; the paths to build. Raises UsageError."""
    texts = files(options)
    marker = out / "base" / "kustomization.yaml"
    ours = marker.is_file() and marker.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
    if out.exists() and not ours and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("is not empty and no earlier rendering", where=str(out), hint="name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent, ignore_cleanup_errors=True) as folder:
            fresh = Path(folder, "fresh")
            for name, text in texts.items():
                path = fresh / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if out.exists():
                out.rename(Path(folder, "old"))
            fresh.rename(out)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(out)) from None
    return [out / "base", *sorted(out.glob("overlays/*"))]
