"""`verify`: two builds from the same lock, made as differently as this host can, must be the same image."""

import difflib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints import ROOT
from entrypoints.errors import EngineError, WrongNumbers
from entrypoints.output import say
from images.command import call, run
from images.options import BuildOptions

from . import engine as engines
from . import lock as locks
from . import ship, sources
from .engine import Engine
from .image import epoch, revision
from .oci import Layout, entries
from .recipe import load_recipe

#: How far the second build's clock is ahead, for what runs on this host: another day, and yet no package list is out of date.
_LATER = "+25h"
_COMPARED_BYTES = 4 << 20  # of a file that is compared as text


@dataclass(frozen=True)
class Difference:
    """Where two images part: the layer's number, the path, what differs, and the content's difference as text."""

    layer: int
    path: str
    what: str
    diff: str = ""


def verify_recipe(
    name: str, engine_choice: str = "auto", keep: Path | None = None, source: Sequence[str] = (), image: str | None = None
) -> str:
    """Build twice without cache, or once when there is an `image` to compare with. WrongNumbers (exit 6) names the first difference.

    Returns two lines: the digest, and the level of docs/reproducible.md that was proved. `keep` is where the image goes as OCI archive.
    """
    import docker

    recipe = load_recipe(name)
    lock = locks.load(recipe)
    words = [f"{part}={path}" for part, path in sources.parse(source, recipe).items()]
    engine = engines.ensure(engine_choice)
    pair = f"{image} and a new build of {name}" if image else f"two builds of {name}"
    with TemporaryDirectory(prefix="epbox-verify-") as folder:
        layouts = []
        identity = {"EPBOX_REVISION": revision().commit, "SOURCE_DATE_EPOCH": str(epoch())}
        copies = {1: Path(folder, "checkout"), 2: Path(folder, "another", "place")}
        if image:
            del copies[1]
            layouts.append(ship.export(engine, image, Path(folder, "1.tar"), f"epbox:{name}"))
            labels, here = layouts[0].labels, identity["EPBOX_REVISION"]
            commit = labels.get("org.opencontainers.image.revision", "unknown")
            if commit != here:
                say(f"warning: {image} was built from commit {commit}, this checkout is {here}")
            # A new build must say the same of itself to be the same.
            identity = {"EPBOX_REVISION": commit, "SOURCE_DATE_EPOCH": str(ship.created(labels))}
            say(f"{image}: {layouts[-1].digest}")
        for copy in copies.values():  # both now: somebody may edit the checkout meanwhile
            for part in ("images", "entrypoints", "templates"):
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            (copy / "tmp").mkdir()
        for number, copy in copies.items():
            tag = f"epbox-verify:{name}-{number}"
            say(f"build {number} of 2" + (f", with other {', '.join(variation())}" if number == 2 else ""))
            options = BuildOptions(name, words, tag=tag, no_cache=True, fresh_base=number == 2, locked=lock is not None)
            try:
                _build(options, engine, copy, identity, varied=number == 2)
                layouts.append(ship.export(engine, tag, Path(folder, f"{number}.tar"), f"epbox:{name}"))
            finally:
                with suppress(docker.errors.ImageNotFound):
                    engine.client().images.remove(tag, force=True)
            say(f"build {number}: {layouts[-1].digest}")
        difference = first_difference(*layouts)
        if difference:
            where = f"layer {difference.layer}, /{difference.path}" if difference.path else f"layer {difference.layer}"
            say(difference.diff or "(no text difference to show)")
            raise WrongNumbers(f"{pair} differ: {difference.what}", where=where, hint=f"engine {engine.version}")
        if keep:
            shutil.copyfile(layouts[0].path, keep)
    kind = f"Docker {engine.version}" + (" (private engine)" if engine.private else "")
    return f"{layouts[0].digest}\nL2: {pair} are equal to the bit, by {kind}, lock {locks.digest(lock)}"


def _build(options: BuildOptions, engine: Engine, copy: Path, identity: Mapping[str, str], varied: bool) -> None:
    """One build from `copy`, in a process of its own; `varied`: in an environment that differs."""
    environment = {**engine.environment(), **identity, "TMPDIR": str(copy / "tmp")}
    code = (
        "import json, sys; from entrypoints.errors import EPBoxError\n"
        "from images.build.image import build; from images.options import BuildOptions\n"
        "try: build(BuildOptions(**json.loads(sys.argv[1])))\n"
        "except EPBoxError as error: print(error, file=sys.stderr); sys.exit(error.exit_code)"
    )
    command = [sys.executable, "-c", code, json.dumps(asdict(options))]
    if varied:
        environment |= {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
        environment |= {"NO_FAKE_STAT": "1"}  # faketime shall change what the time is, not what files say of theirs
        # The base is bootstrapped by this process, so its host name, CPUs and clock take part.
        prefixes = _prefixes()
        own_name = prefixes.pop("host name", "")
        line = f"umask 027; {'hostname other-host; ' if own_name else ''}exec {' '.join([*prefixes.values(), shlex.join(command)])}"
        command = [*own_name.split(), "sh", "-c", line]
    exit_code = call(command, cwd=copy, env=environment)
    if exit_code != 0:
        raise EngineError(f"the build for {options.tag} ended with exit code {exit_code}", hint="the lines above say why")


def variation() -> tuple[str, ...]:
    """Names of what differs in the second build; what runs in the engine's build containers has the engine's host name, clock and CPUs."""
    return ("folder of the checkout", "temporary folder", "umask", "locale", "time zone", "hash seed", *_prefixes())


def _prefixes() -> dict[str, str]:
    """What this host can change for one process, to the command before another one that does it."""
    prefixes = {}
    if os.geteuid() == 0 and shutil.which("unshare"):
        prefixes["host name"] = "unshare --uts"
    if shutil.which("taskset"):
        prefixes["CPU count"] = f"taskset --cpu-list {min(os.sched_getaffinity(0))}"
    if shutil.which("faketime"):
        prefixes[f"clock of this host's programs ({_LATER})"] = f"faketime -f {_LATER}"
    return prefixes


def first_difference(one: Layout, two: Layout) -> Difference | None:
    """Find the first difference of two layouts, layer by layer in file order; None when their manifests are equal."""
    if one.digest == two.digest:
        return None
    for number, (left, right) in enumerate(zip_longest(one.layers, two.layers)):
        if left == right:
            continue
        if left is None or right is None:
            return Difference(number, "", "is in one image only")
        return _in_layer(one, two, number)
    return Difference(len(one.layers), "", "the configurations differ: labels, environment or history")


def _in_layer(one: Layout, two: Layout, number: int) -> Difference:
    for left, right in zip_longest(entries(one, one.layers[number]), entries(two, two.layers[number])):
        if left is None or right is None or left[0].name != right[0].name:
            names = [side[0].name for side in (left, right) if side]
            return Difference(number, min(names), "is in one image only")
        a, b = left[0], right[0]
        for field in ("type", "mode", "uid", "gid", "mtime", "linkname", "devmajor", "devminor", "pax_headers"):
            if getattr(a, field) != getattr(b, field):
                return Difference(number, a.name, f"{field} {getattr(a, field)} != {getattr(b, field)}")
        if left[1] and right[1]:
            contents = left[1].read(), right[1].read()
            if contents[0] != contents[1]:
                return Difference(number, a.name, f"content differs ({a.size} and {b.size} bytes)", _diff(*contents))
    return Difference(number, "", "the layers hold equal files in other bytes")


def _diff(one: bytes, two: bytes) -> str:
    """diffoscope's words when it is installed; else a unified diff of text, or the first offset of binary files."""
    if shutil.which("diffoscope"):
        with TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("one", "two")]
            for path, content in zip(paths, (one, two), strict=True):
                path.write_bytes(content)
            # 1 is its exit code for files that differ.
            return run(["diffoscope", "--max-report-size", "4000", *map(str, paths)], accept=(0, 1)).strip()
    if b"\0" not in one[:_COMPARED_BYTES] + two[:_COMPARED_BYTES]:
        left, right = (content[:_COMPARED_BYTES].decode(errors="replace").splitlines() for content in (one, two))
        return "\n".join(list(difflib.unified_diff(left, right, "first", "second", lineterm="", n=1))[:40])
    offset = next((at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two)))
    return f"first at byte {offset}: {one[offset : offset + 16].hex(' ')} != {two[offset : offset + 16].hex(' ')}"
