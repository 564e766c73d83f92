"""What an image holds, known before it is built: from recipe, lock and wheel lists to SPDX and CycloneDX. Same inputs, same bytes.

These two files lie in the image; `verify --image` and `sbom` compare them with what is really there.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from entrypoints import __version__

from . import lock as locks
from .recipe import Recipe

SPDX, CYCLONEDX = "sbom.spdx.json", "sbom.cdx.json"

#: Licence of what is compiled from source, as its repository states it. NVSHMEM's is a licence text of its own, no SPDX identifier.
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


def parts(recipe: Recipe, lock: Mapping[str, Any], drift: Sequence[str] = (), folder: Path = locks.LOCKS) -> tuple[Part, ...]:
    """All packages of the image's last stage, sorted. `drift` lines (NAME LOCKED -> OFFERED) name those that came in another version."""
    other = {line.split()[0] for line in drift if " -> " in line}
    debian = {**lock["base_packages"], **lock["packages"].get("runtime", {})}
    found = [_deb(name, package, str(recipe.base.suite), name in other) for name, package in debian.items()]
    found += [Part("wheel", name, version, f"pkg:pypi/{name}@{quote(version)}") for name, version in wheels(recipe, folder)]
    return tuple(sorted((*found, *from_source(recipe)), key=lambda part: (part.kind, part.name, part.version)))


def wheels(recipe: Recipe, folder: Path = locks.LOCKS) -> tuple[tuple[str, str], ...]:
    """Name and version of the wheels that the last stage keeps: torch's without what torch-trim.sh leaves out, and a runtime compiler's."""
    names = ["torch.txt", *(["toolkit.txt"] if recipe.cuda and recipe.cuda.runtime_compiler and recipe.cuda.source == "wheel" else [])]
    paths = [folder / recipe.name / name for name in names]
    found = {pair for path in paths if path.exists() for pair in re.findall(r"^([a-z0-9-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)}
    dropped = set() if recipe.torch and "triton" in recipe.torch.keep else {"triton"}
    return tuple(sorted((name, version) for name, version in found if name not in dropped))


def from_source(recipe: Recipe) -> tuple[Part, ...]:
    """What the recipe compiles: NVSHMEM, DeepEP, fmt."""
    found = []
    if recipe.nvshmem and recipe.nvshmem.source == "source":
        found.append(("nvshmem", recipe.nvshmem.version, recipe.nvshmem.url, recipe.nvshmem.commit))
    if recipe.deepep:
        found.append(("deepep", recipe.deepep.tag or recipe.deepep.commit[:7], recipe.deepep.url, recipe.deepep.commit))
        if recipe.deepep.fmt_commit:
            found.append(("fmt", recipe.deepep.fmt_commit[:7], recipe.deepep.fmt_url, recipe.deepep.fmt_commit))
    return tuple(Part("source", n, v, url=str(url), commit=str(commit), licence=_LICENCES[n]) for n, v, url, commit in found)


def files(recipe: Recipe, lock: Mapping[str, Any] | None, drift: Sequence[str] = ()) -> dict[str, str]:
    """File name to text of the SBOMs that an image carries; none for a recipe without a lock, whose packages nobody knows beforehand."""
    if not lock:
        return {}
    held = parts(recipe, lock, drift)
    return {SPDX: _text(spdx(recipe, lock, held, drift)), CYCLONEDX: _text(cyclonedx(recipe, lock, held, drift))}


def spdx(recipe: Recipe, lock: Mapping[str, Any], held: Sequence[Part], drift: Sequence[str] = ()) -> dict[str, Any]:
    """SPDX 2.3 of the parts; its time is the base's, and its namespace names the lock."""
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"epbox-{recipe.name}",
        "documentNamespace": f"urn:epbox:{recipe.name}:{locks.digest(lock)}",
        "creationInfo": {"created": _created(recipe), "creators": [f"Tool: epbox-{__version__}"]},
        "comment": _comment(recipe, drift),
        "packages": [],
        "relationships": [],
    }
    for part in held:
        add_spdx(document, part)
    return document


def add_spdx(document: dict[str, Any], part: Part) -> None:
    """Add one part to an SPDX document."""
    identifier = "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{part.kind}-{part.name}-{part.version}".rstrip("-"))
    package: dict[str, Any] = {
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
    document["packages"].append(package)
    document["relationships"].append(
        {"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": identifier, "relationshipType": "DESCRIBES"}
    )
    if part.licence.startswith("LicenseRef-"):
        text = f"The licence file of {part.url} at {part.commit}."
        document.setdefault("hasExtractedLicensingInfos", []).append({"licenseId": part.licence, "extractedText": text})


def cyclonedx(recipe: Recipe, lock: Mapping[str, Any], held: Sequence[Part], drift: Sequence[str] = ()) -> dict[str, Any]:
    """CycloneDX 1.6 of the parts; its serial number follows from them."""
    seed = _text({"parts": [vars(part) for part in held], "lock": locks.digest(lock)})
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "metadata": {
            "timestamp": _created(recipe),
            "component": {"type": "container", "name": f"epbox-{recipe.name}", "version": locks.digest(lock)},
            "properties": [{"name": "epbox:comment", "value": _comment(recipe, drift)}],
        },
        "components": [],
    }
    for part in held:
        add_cyclonedx(document, part)
    return document


def add_cyclonedx(document: dict[str, Any], part: Part) -> None:
    """Add one part to a CycloneDX document."""
    component: dict[str, Any] = {"type": "library", "bom-ref": part.purl or f"source:{part.name}@{part.commit}", "name": part.name}
    component |= {"version": part.version} if part.version else {}
    component |= {"purl": part.purl} if part.purl else {}
    component |= {"hashes": [{"alg": "SHA-256", "content": part.sha256}]} if part.sha256 else {}
    if part.licence != "NOASSERTION":
        named = part.licence.startswith("LicenseRef-")
        component["licenses"] = [{"license": {"name" if named else "id": part.licence}}]
    if part.commit:
        component["externalReferences"] = [{"type": "vcs", "url": part.url, "comment": part.commit}]
    document.setdefault("components", []).append(component)


def digest(text: str | bytes) -> str:
    """What the label epbox.sbom says of sbom.spdx.json."""
    return "sha256:" + hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def deb_purl(name: str, package: Mapping[str, str], suite: str) -> str:
    """Package URL of a Debian package."""
    return f"pkg:deb/debian/{quote(name)}@{quote(package['version'])}?arch={package['arch']}&distro={suite}"


def _deb(name: str, package: Mapping[str, str], suite: str, drifted: bool) -> Part:
    if drifted:
        return Part("deb", name, "", f"pkg:deb/debian/{quote(name)}?distro={suite}")
    return Part("deb", name, package["version"], deb_purl(name, package, suite), package["sha256"])


def _comment(recipe: Recipe, drift: Sequence[str]) -> str:
    """Where this document comes from, and what it cannot know."""
    words = ["Made before the build, from recipe and lock; ./inv verify --image compares it with the image."]
    if recipe.base.kind == "registry":
        words.append(f"Debian packages are not listed: the base {recipe.base.image}@{recipe.base.digest} brings them.")
    if drift:
        words.append(f"Drift from the lock, in versions and perhaps in further packages: {', '.join(drift)}.")
    return " ".join(words)


def _created(recipe: Recipe) -> str:
    return datetime.fromtimestamp(recipe.base.epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
