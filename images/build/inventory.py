"""What is in an image, where it came from and under which licences: SPDX, CycloneDX, SLSA provenance. Same inputs, same bytes.

Before it is built, recipe, lock and wheel lists say it, in two files that lie in the image; `verify --image` and `sbom` compare them with
what is really there. Of a built image, syft lists Debian packages and wheels, and the recipe adds what was compiled from source.
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from entrypoints import __version__

from . import lock as locks
from . import oci, sources
from .debian import Package
from .engine import Engine
from .lock import Lock
from .recipe import Recipe

SPDX, CYCLONEDX = "sbom.spdx.json", "sbom.cdx.json"
Json = dict[str, Any]  # a document of one of these formats, or a part of it

#: Licence of what is compiled from source, as its repository states it. NVSHMEM's is a licence text of its own, not an SPDX identifier.
_LICENCES = {"deepep": "MIT", "fmt": "MIT", "nvshmem": "LicenseRef-NVIDIA-NVSHMEM-SLA"}


@dataclass(frozen=True)
class Part:
    """One package: a Debian package, a wheel, or what is compiled from source. `version` is empty where the mirror had another one."""

    kind: Literal["deb", "wheel", "source"]
    name: str
    version: str
    purl: str = ""
    sha256: str = ""  # of the .deb
    url: str = ""
    commit: str = ""
    licence: str = "NOASSERTION"


def parts(recipe: Recipe, lock: Lock, drift: Sequence[str] = (), folder: Path = locks.LOCKS) -> tuple[Part, ...]:
    """All packages of the image's last stage, sorted. `drift` lines (NAME LOCKED -> OFFERED) name those that came in another version."""
    drifted = {line.split()[0] for line in drift if " -> " in line}
    suite = str(recipe.base.suite)
    packages = [Part("wheel", name, version, f"pkg:pypi/{name}@{quote(version)}") for name, version in wheels(recipe, folder)]
    for name, package in lock.runtime_packages().items():
        if name in drifted:
            packages.append(Part("deb", name, "", f"pkg:deb/debian/{quote(name)}?distro={suite}"))
        else:
            packages.append(Part("deb", name, package.version, deb_purl(name, package, suite), package.sha256))
    return tuple(sorted((*packages, *from_source(recipe)), key=lambda part: (part.kind, part.name, part.version)))


def wheels(recipe: Recipe, folder: Path = locks.LOCKS) -> tuple[tuple[str, str], ...]:
    """Name and version of the wheels that the last stage keeps: torch's without what torch-trim.sh leaves out, and a runtime compiler's."""
    names = ["torch.txt"]
    if recipe.cuda and recipe.cuda.runtime_compiler and recipe.cuda.source == "wheel":
        names.append("toolkit.txt")
    text = "\n".join(path.read_text() for name in names if (path := folder / recipe.name / name).exists())
    pinned = set(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))
    dropped = () if recipe.torch and "triton" in recipe.torch.keep else ("triton",)
    return tuple(sorted((name, version) for name, version in pinned if name not in dropped))


def from_source(recipe: Recipe) -> tuple[Part, ...]:
    """The parts that the recipe compiles."""
    pinned = sources.pinned(recipe).items()
    return tuple(Part("source", name, p.version, url=p.url, commit=p.commit, licence=_LICENCES[name]) for name, p in pinned)


def files(recipe: Recipe, lock: Lock, drift: Sequence[str] = ()) -> dict[str, str]:
    """File name to text of the SBOMs that an image carries, SPDX 2.3 and CycloneDX 1.6: equal inputs, equal bytes.

    Their time is the base's, their ids follow from parts and lock; a comment says where they come from, and what they cannot know.
    """
    packages = parts(recipe, lock, drift)
    name, digest = f"epbox-{recipe.name}", locks.digest(lock)
    created = datetime.fromtimestamp(recipe.base.epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    comment = "Made before the build, from recipe and lock; ./inv verify --image compares it with the image."
    if recipe.base.kind == "registry":
        comment += f" Debian packages are not listed: the base {recipe.base.image}@{recipe.base.digest} brings them."
    if drift:
        comment += f" Drift from the lock, in versions and perhaps in further packages: {', '.join(drift)}."
    spdx: Json = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:epbox:{recipe.name}:{digest}",
        "creationInfo": {"created": created, "creators": [f"Tool: epbox-{__version__}"]},
        "comment": comment,
        "packages": [],
        "relationships": [],
    }
    seed = to_text({"parts": [vars(part) for part in packages], "lock": digest})
    cyclonedx: Json = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "metadata": {
            "timestamp": created,
            "component": {"type": "container", "name": name, "version": digest},
            "properties": [{"name": "epbox:comment", "value": comment}],
        },
        "components": [],
    }
    _add(spdx, cyclonedx, packages)
    return {SPDX: to_text(spdx), CYCLONEDX: to_text(cyclonedx)}


def complete(spdx: Json, cyclonedx: Json, recipe: Recipe, image: str, layout: oci.Layout) -> None:
    """Add what was compiled from source, which has no package record, to syft's documents of an image; times and ids become the image's."""
    spdx["creationInfo"]["created"] = layout.created
    spdx["documentNamespace"] = f"urn:epbox:{recipe.name}:{layout.digest}"
    spdx["name"] = image
    cyclonedx["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, layout.digest)}"
    component = {"type": "container", "bom-ref": layout.digest, "name": image, "version": layout.digest}
    cyclonedx["metadata"] = {**cyclonedx.get("metadata", {}), "timestamp": layout.created, "component": component}
    _add(spdx, cyclonedx, from_source(recipe))


def _add(spdx: Json, cyclonedx: Json, packages: Sequence[Part]) -> None:
    """Add packages to both documents."""
    for part in packages:
        identifier = "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{part.kind}-{part.name}-{part.version}".rstrip("-"))
        package: Json = {
            "SPDXID": identifier,
            "name": part.name,
            "downloadLocation": f"git+{part.url}@{part.commit}" if part.commit else "NOASSERTION",
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": part.licence,
            "copyrightText": "NOASSERTION",
        }
        package |= {"versionInfo": part.version} if part.version else {}
        package |= {"sourceInfo": "compiled from source by the recipe"} if part.kind == "source" else {}
        package |= {"checksums": [{"algorithm": "SHA256", "checksumValue": part.sha256}]} if part.sha256 else {}
        if part.purl:
            package["externalRefs"] = [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": part.purl}]
        spdx["packages"].append(package)
        describes = {"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": identifier, "relationshipType": "DESCRIBES"}
        spdx["relationships"].append(describes)
        if part.licence.startswith("LicenseRef-"):
            text = f"The licence file of {part.url} at {part.commit}."
            spdx.setdefault("hasExtractedLicensingInfos", []).append({"licenseId": part.licence, "extractedText": text})
        component: Json = {"type": "library", "bom-ref": part.purl or f"source:{part.name}@{part.commit}", "name": part.name}
        component |= {"version": part.version} if part.version else {}
        component |= {"purl": part.purl} if part.purl else {}
        component |= {"hashes": [{"alg": "SHA-256", "content": part.sha256}]} if part.sha256 else {}
        if part.licence != "NOASSERTION":
            key = "name" if part.licence.startswith("LicenseRef-") else "id"
            component["licenses"] = [{"license": {key: part.licence}}]
        if part.commit:
            component["externalReferences"] = [{"type": "vcs", "url": part.url, "comment": part.commit}]
        cyclonedx.setdefault("components", []).append(component)


def provenance(recipe: Recipe, lock: Lock | None, image: str, layout: oci.Layout, engine: Engine) -> Json:
    """Make an in-toto statement with a SLSA provenance v1 predicate. It is unsigned: it states, and `verify` proves."""
    commit = layout.labels.get("org.opencontainers.image.revision", "unknown")
    base = (lock.base.digest if lock else None) or recipe.base.digest
    dependencies: list[Json] = [{"uri": "epbox", "digest": {"gitCommit": commit.removesuffix("-dirty")}}]
    if base:
        dependencies.append({"uri": f"base:{recipe.base.name}", "digest": {"sha256": _hex(base)}})
    for part in from_source(recipe):
        dependencies.append({"uri": f"git+{part.url}", "digest": {"gitCommit": part.commit}})
    for name, digest in sorted(lock.wheels.items() if lock else ()):  # the list has every wheel's own hash
        dependencies.append({"uri": f"epbox:images/locks/{recipe.name}/{name}", "digest": {"sha256": _hex(digest)}})
    packages = {(name, p.version): p for stage in (lock.packages.values() if lock else ()) for name, p in stage.items()}
    for (name, _), package in sorted(packages.items()):
        dependencies.append({"uri": deb_purl(name, package, str(recipe.base.suite)), "digest": {"sha256": package.sha256}})
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image, "digest": {"sha256": _hex(layout.digest)}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:epbox:build/1",
                "externalParameters": {"recipe": recipe.name},
                "internalParameters": {"lock": locks.digest(lock), "dirty": commit.endswith("-dirty")},
                "resolvedDependencies": dependencies,
            },
            "runDetails": {"builder": {"id": "urn:epbox:inv", "version": {"epbox": __version__, "docker": engine.version}}},
        },
    }


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def licences(spdx: Json) -> str:
    """Every package with its declared licence, and first of all which have none that a machine can read."""
    # syft writes what is not an SPDX identifier as LicenseRef-NAME; the name alone reads better, ours excepted.
    rows = [(p["name"], p.get("versionInfo", ""), p.get("licenseDeclared") or "NOASSERTION") for p in spdx["packages"]]
    rows = sorted((n, v, re.sub(r"LicenseRef-(?!NVIDIA)", "", licence)) for n, v, licence in rows)
    unknown = sum(licence == "NOASSERTION" for _, _, licence in rows)
    head = f"{len(rows)} packages, {unknown} without a declared licence (see /usr/share/doc/NAME/copyright in the image)\n\n"
    return head + "".join(f"{name:<34} {version:<34} {licence}\n" for name, version, licence in rows)


def deb_purl(name: str, package: Package, suite: str) -> str:
    """Package URL of a Debian package."""
    return f"pkg:deb/debian/{quote(name)}@{quote(package.version)}?arch={package.arch}&distro={suite}"


def to_text(document: Json) -> str:
    """JSON with sorted keys, so that equal documents are equal bytes."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
