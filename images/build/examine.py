"""`verify --image`: what an existing image says of itself against what it holds and what this checkout locks."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from entrypoints.errors import WrongNumbers

from . import base, contents, engine, inventory, lock, oci, render, sbom, ship
from .contents import Contents
from .recipe import Recipe, load_recipe


def verify_image(name: str, engine_choice: str = "auto") -> list[str]:
    """Every line is a check that passed; WrongNumbers (exit 6) names the first that did not."""
    where = engine.ensure(engine_choice)
    with TemporaryDirectory(prefix="epbox-verify-") as folder:
        layout, config = oci.read(ship.export(where, name, Path(folder, "image.tar"), name).path)
        labels: dict[str, Any] = config["config"].get("Labels") or {}
        held = contents.read(layout)
        passed = [f"digest {layout.digest} (normalised)"]
        document, more = _lock(name, labels, held)
        what = load_recipe(str(labels["epbox.recipe"]))
        passed += [*more, *_packages(name, what, document, labels, held), *_sbom(name, what, document, labels, held)]
        passed += _compiled(name, what, held)
        scanned = sbom.scan(layout, name, ("syft-json",))["syft-json"]
    found = sbom.comparable(what, sbom.found(scanned))
    _same(name, "the SBOM inside", sbom.comparable(what, sbom.inside(held)), "syft", found)
    return [*passed, f"syft finds the same {len(found)} packages"]


def _lock(name: str, labels: dict[str, Any], held: Contents) -> tuple[dict[str, Any], list[str]]:
    """The lock inside is the one that the label names and that this checkout has, and nothing drifted from it."""
    inside, said = held.files.get("lock.json"), labels.get("epbox.lock", "nothing")
    if inside is None:
        _require(said in ("none", "nothing"), name, f"label epbox.lock says {said}, but no lock is inside")
        raise WrongNumbers("was built without a lock: nothing can be verified", where=name, hint="./inv lock, then ./inv build")
    own = inventory.digest(inside)
    _require(said == own, name, f"label epbox.lock says {said}, the lock inside is {own}")
    recipe = str(labels.get("epbox.recipe"))
    what = load_recipe(recipe)
    known = lock.digest(lock.load(what))
    _require(known == own, name, f"the lock inside is {own}, this checkout's is {known}")
    resolved = render.recipe_text(what)
    _require(held.files.get("recipe.toml") == resolved.encode(), name, f"the recipe inside is not this checkout's {recipe}")
    drift = labels.get("epbox.lock.drift")
    _require(drift == "none", name, f"drift: {drift}")
    document: dict[str, Any] = json.loads(inside)  # equal to ours by digest, so it is a lock
    return document, [
        f"lock inside is the labelled one, {own}",
        f"lock and recipe are this checkout's of {recipe}",
        "label epbox.lock.drift: none",
    ]


def _packages(name: str, what: Recipe, document: dict[str, Any], labels: dict[str, Any], held: Contents) -> list[str]:
    """dpkg's packages and the wheels' metadata are what the lock says, no more and no less."""
    if what.base.kind == "debian":
        locked = {**document["base_packages"], **document["packages"].get("runtime", {})}
        want = {("deb", each, package["version"]) for each, package in locked.items()}
        _same(name, "the lock", want, "dpkg", {("deb", each, version) for each, version in held.debian.items()})
        passed = [f"all {len(want)} Debian packages are those of the lock"]
    else:
        said = labels.get("org.opencontainers.image.base.name")
        _require(said == base.reference(what.base), name, f"its base is {said}, the recipe says {base.reference(what.base)}")
        passed = [f"base is {said}; a registry base's packages are pinned by its digest, not listed in a lock"]
    want_wheels = {("wheel", *pair) for pair in inventory.wheels(what)}
    have_wheels = {("wheel", *pair) for pair in held.wheels}
    _same(name, "the wheel lists", want_wheels, "the image", have_wheels)
    return [*passed, f"all {len(have_wheels)} wheels are those of the locked lists"] if have_wheels else passed


def _sbom(name: str, what: Recipe, document: dict[str, Any], labels: dict[str, Any], held: Contents) -> list[str]:
    """The SBOMs inside are the labelled ones, and list what lock, wheel lists and recipe name."""
    text = held.files.get(inventory.SPDX)
    if text is None:
        raise WrongNumbers("holds no SBOM", where=name, hint="it was built by an earlier version: ./inv build")
    own = inventory.digest(text)
    _require(labels.get("epbox.sbom") == own, name, f"label epbox.sbom says {labels.get('epbox.sbom')}, the SBOM inside is {own}")
    want = {(part.kind, part.name, part.commit or part.version) for part in inventory.parts(what, document)}
    _same(name, "lock and recipe", want, "the SBOM inside", sbom.inside(held))
    other = sbom.inside_cyclonedx(held)
    _same(name, "the SBOM inside", want, "its CycloneDX twin", other)
    return [f"SBOM inside is the labelled one, {own}", f"SBOMs (SPDX, CycloneDX) list the {len(want)} packages of lock and recipe"]


def _compiled(name: str, what: Recipe, held: Contents) -> list[str]:
    """What the SBOM calls compiled from source is there, in that version. fmt is headers that end in DeepEP's library."""
    passed = []
    for part in inventory.from_source(what):
        if part.name == "fmt":
            continue
        have = held.compiled.get(part.name, "absent")
        want = part.commit[: max(7, len(have))] if part.name == "deepep" else part.version
        _require(have == want and have != "", name, f"{part.name} {want} is said to be compiled in, the image has {have}")
        passed.append(f"{part.name} {have} is there, compiled from {part.url} at {part.commit[:12]}")
    return passed


def _same(image: str, one: str, want: Iterable[tuple[str, str, str]], two: str, have: Iterable[tuple[str, str, str]]) -> None:
    """WrongNumbers that names the first packages in which two lists differ."""
    left, right = set(want), set(have)
    words = [f"{name} {version} only in {one}" for _, name, version in sorted(left - right)]
    words += [f"{name} {version} only in {two}" for _, name, version in sorted(right - left)]
    _require(not words, image, f"{one} and {two} differ in packages: {', '.join(words[:5])}" + (", ..." if words[5:] else ""))


def _require(good: bool, where: str, what: str) -> None:
    if not good:
        raise WrongNumbers(what, where=where, hint="it is not what its lock says")
