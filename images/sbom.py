"""`sbom`: what an image holds (SPDX, CycloneDX), where it came from (in-toto, SLSA provenance v1), and under which licences.

syft finds Debian packages and wheels; what was compiled from source has no package record, so the recipe adds it.
"""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from entrypoints import __version__
from entrypoints.errors import EngineError
from entrypoints.output import say, write_atomically

from . import build, engine, lock, oci, ship
from .recipe import Recipe, load_recipe

#: Licence of what is compiled from source, as its repository states it. NVSHMEM's is a licence text of its own, no SPDX identifier.
_LICENCES = {"deepep": "MIT", "fmt": "MIT", "nvshmem": "LicenseRef-NVIDIA-NVSHMEM-SLA"}

#: Packages, not their ten thousand files; no call home.
_SYFT = {"PATH": "/usr/bin:/bin", "SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FILE_METADATA_SELECTION": "none"}


def write(recipe: str, image: str, out: Path, engine_choice: str = "auto") -> list[Path]:
    """Describe one built image in `out`: sbom.spdx.json, sbom.cdx.json, provenance.json, licences.txt. Same image, same bytes."""
    what = load_recipe(recipe)
    locked = lock.load(what)
    where = engine.ensure(engine_choice)
    with TemporaryDirectory(prefix="epbox-sbom-") as folder:
        layout = ship.export(where, image, Path(folder, "image.tar"), image)
        created = oci.read(layout.path)[1]["created"]
        found = _syft(layout, image)
    spdx = add_to_spdx(found["spdx-json"], what, image, layout.digest, created)
    cyclonedx = add_to_cyclonedx(found["cyclonedx-json"], what, image, layout.digest, created)
    files = {
        "sbom.spdx.json": _text(spdx),
        "sbom.cdx.json": _text(cyclonedx),
        "provenance.json": _text(provenance(what, locked, image, layout.digest, where)),
        "licences.txt": licences(spdx),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    say(f"{image}: {len(spdx['packages'])} packages, digest {layout.digest}")
    return [out / name for name in files]


def from_source(recipe: Recipe) -> list[dict[str, str]]:
    """Name, version, url, commit and licence of what the recipe compiles."""
    parts = []
    if recipe.nvshmem and recipe.nvshmem.source == "source":
        parts.append(("nvshmem", recipe.nvshmem.version, recipe.nvshmem.url, recipe.nvshmem.commit))
    if recipe.deepep:
        version = recipe.deepep.tag or recipe.deepep.commit[:7]
        parts.append(("deepep", version, recipe.deepep.url, recipe.deepep.commit))
        if recipe.deepep.fmt_commit:
            parts.append(("fmt", recipe.deepep.fmt_commit[:7], recipe.deepep.fmt_url, recipe.deepep.fmt_commit))
    return [{"name": n, "version": v, "url": str(u), "commit": str(c), "licence": _LICENCES[n]} for n, v, u, c in parts]


def add_to_spdx(document: dict[str, Any], recipe: Recipe, image: str, digest: str, created: str) -> dict[str, Any]:
    """syft's SPDX with the parts built from source, and without the time and random name of this run."""
    document["creationInfo"] = {**document["creationInfo"], "created": created}
    document["documentNamespace"] = f"urn:epbox:{recipe.name}:{digest}"
    document["name"] = image
    for part in from_source(recipe):
        identifier = f"SPDXRef-Source-{part['name']}"
        document["packages"].append(
            {
                "SPDXID": identifier,
                "name": part["name"],
                "versionInfo": part["version"],
                "downloadLocation": f"git+{part['url']}@{part['commit']}",
                "filesAnalyzed": False,
                "licenseConcluded": "NOASSERTION",
                "licenseDeclared": part["licence"],
                "copyrightText": "NOASSERTION",
                "sourceInfo": "compiled from source by the recipe",
            }
        )
        document["relationships"].append(
            {"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": identifier, "relationshipType": "DESCRIBES"}
        )
        if part["licence"].startswith("LicenseRef-"):
            text = f"The licence file of {part['url']} at {part['commit']}."
            document.setdefault("hasExtractedLicensingInfos", []).append({"licenseId": part["licence"], "extractedText": text})
    return document


def add_to_cyclonedx(document: dict[str, Any], recipe: Recipe, image: str, digest: str, created: str) -> dict[str, Any]:
    """syft's CycloneDX with the parts built from source; serial number and time come from the image."""
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    document["metadata"] = {**document.get("metadata", {}), "timestamp": created}
    document["metadata"]["component"] = {"type": "container", "bom-ref": digest, "name": image, "version": digest}
    for part in from_source(recipe):
        licence = {"name": part["licence"]} if part["licence"].startswith("LicenseRef-") else {"id": part["licence"]}
        document.setdefault("components", []).append(
            {
                "type": "library",
                "bom-ref": f"source:{part['name']}@{part['commit']}",
                "name": part["name"],
                "version": part["version"],
                "licenses": [{"license": licence}],
                "externalReferences": [{"type": "vcs", "url": part["url"], "comment": part["commit"]}],
            }
        )
    return document


def provenance(recipe: Recipe, locked: Mapping[str, Any] | None, image: str, digest: str, where: engine.Engine) -> dict[str, Any]:
    """An in-toto statement with a SLSA provenance v1 predicate. It is unsigned: it states, and `verify` proves."""
    commit, _ = build.revision()
    base = (locked or {}).get("base", {}).get("digest") or recipe.base.digest
    dependencies: list[dict[str, Any]] = [{"uri": "epbox", "digest": {"gitCommit": commit.removesuffix("-dirty")}}]
    dependencies += [{"uri": f"base:{recipe.base.name}", "digest": {"sha256": base.removeprefix("sha256:")}}] if base else []
    dependencies += [{"uri": f"git+{each['url']}", "digest": {"gitCommit": each["commit"]}} for each in from_source(recipe)]
    for name, package in sorted((locked or {}).get("packages", {}).get("runtime", {}).items()):
        purl = f"pkg:deb/debian/{name}@{package['version']}?arch={package['arch']}"
        dependencies.append({"uri": purl, "digest": {"sha256": package["sha256"]}})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:epbox:build/1",
                "externalParameters": {"recipe": recipe.name},
                "internalParameters": {"lock": lock.digest(locked), "dirty": commit.endswith("-dirty")},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": {"id": "urn:epbox:inv", "version": {"epbox": __version__, "docker": where.version}}},
        },
    }


def licences(spdx: Mapping[str, Any]) -> str:
    """Every package with its declared licence, and first of all which have none that a machine can read."""
    # syft writes what is no SPDX identifier as LicenseRef-NAME; the name alone reads better, ours excepted.
    rows = [(p["name"], p.get("versionInfo", ""), p.get("licenseDeclared") or "NOASSERTION") for p in spdx["packages"]]
    rows = sorted((n, v, re.sub(r"LicenseRef-(?!NVIDIA)", "", licence)) for n, v, licence in rows)
    unknown = sum(licence == "NOASSERTION" for _, _, licence in rows)
    head = f"{len(rows)} packages, {unknown} without a declared licence (see /usr/share/doc/NAME/copyright in the image)\n\n"
    return head + "".join(f"{name:<34} {version:<34} {licence}\n" for name, version, licence in rows)


def _syft(layout: oci.Layout, image: str) -> dict[str, dict[str, Any]]:
    program = str(Path(sys.executable).parent / "syft")
    found = {}
    with TemporaryDirectory(prefix="epbox-syft-") as folder:
        command = [program, "scan", f"oci-archive:{layout.path}", "--quiet", "--source-name", image, "--source-version", layout.digest]
        for kind in ("spdx-json", "cyclonedx-json"):
            command += ["--output", f"{kind}={folder}/{kind}"]
        done = subprocess.run(command, capture_output=True, text=True, env=_SYFT)
        if done.returncode != 0:
            raise EngineError(f"syft failed: {done.stderr.strip()[-300:]}", where=image)
        for kind in ("spdx-json", "cyclonedx-json"):
            found[kind] = json.loads(Path(folder, kind).read_text())
    return found


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
