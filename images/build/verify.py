"""`verify`: two builds from the same lock, made as differently as this host can, must be the same image."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints import ROOT
from entrypoints.errors import EngineError, WrongNumbers
from entrypoints.output import say

from . import compare, engine, lock, ship, sources
from . import image as build
from .recipe import Recipe, load_recipe

#: How far the second build's clock is ahead, for what runs on this host: another day, and yet no package list is out of date.
_LATER = "+25h"


@dataclass(frozen=True)
class Verdict:
    """What was proved: L2 means equal digests of two builds, L1 equal files, L0 that every input is locked by hash."""

    recipe: str
    level: str
    digest: str
    engine: str
    lock: str
    image: str | None = None  # what one build was compared with, when not with a second one

    def text(self) -> str:
        """What a user reads on stdout; the digest stands alone on the first line."""
        equal = f"{self.image} and a new build of {self.recipe}" if self.image else f"two builds of {self.recipe}"
        return f"{self.digest}\n{self.level}: {equal} are equal to the bit, by {self.engine}, lock {self.lock}"


def verify_recipe(
    name: str, engine_choice: str = "auto", keep: Path | None = None, source: Sequence[str] = (), image: str | None = None
) -> Verdict:
    """Build twice without cache, or once when there is an `image` to compare with. WrongNumbers (exit 6) names the first difference."""
    what = load_recipe(name)
    sources.parse(source, what)
    where = engine.ensure(engine_choice)
    with TemporaryDirectory(prefix="epbox-verify-") as folder:
        layouts = []
        identity: Mapping[str, str] = {"EPBOX_REVISION": build.revision()[0], "SOURCE_DATE_EPOCH": str(build.epoch())}
        copies = {1: Path(folder, "checkout"), 2: Path(folder, "another", "place")}
        if image:
            del copies[1]
            identity = _identity_of(where, image, identity)
            layouts.append(ship.export(where, image, Path(folder, "1.tar"), f"epbox:{name}"))
            say(f"{image}: {layouts[-1].digest}")
        for copy in copies.values():  # both now: somebody may edit the checkout meanwhile
            _copy_checkout(copy)
        for number, copy in copies.items():
            tag = f"epbox-verify:{name}-{number}"
            say(f"build {number} of 2" + (f", with other {', '.join(variation())}" if number == 2 else ""))
            try:
                _build(what, tag, where, copy, identity, [absolute(word) for word in source], varied=number == 2)
                layouts.append(ship.export(where, tag, Path(folder, f"{number}.tar"), f"epbox:{name}"))
            finally:
                _remove(where, tag)
            say(f"build {number}: {layouts[-1].digest}")
        difference = compare.first_difference(*layouts)
        if difference:
            place = f"layer {difference.layer}, /{difference.path}" if difference.path else f"layer {difference.layer}"
            say(difference.diff or "(no text difference to show)")
            pair = f"{image} and a new build of {name}" if image else f"two builds of {name}"
            raise WrongNumbers(f"{pair} differ: {difference.what}", where=place, hint=f"engine {where.version}")
        if keep:
            shutil.copyfile(layouts[0].path, keep)
    kind = f"Docker {where.version}" + (" (private engine)" if where.private else "")
    return Verdict(name, "L2", layouts[0].digest, kind, lock.digest(lock.load(what)), image)


def _remove(where: engine.Engine, tag: str) -> None:
    import docker

    with suppress(docker.errors.ImageNotFound):
        where.client().images.remove(tag, force=True)


def absolute(word: str) -> str:
    """NAME=PATH with a path that means the same from any folder."""
    name, _, path = word.partition("=")
    return f"{name}={Path(path).resolve()}"


def _identity_of(where: engine.Engine, image: str, here: Mapping[str, str]) -> Mapping[str, str]:
    """Commit and time that an image says it has; a new build must say the same to be the same."""
    import docker

    try:
        labels: Mapping[str, str] = where.client().images.get(image).labels
    except docker.errors.ImageNotFound:
        raise EngineError("the engine has no such image", where=image, hint="./inv build makes one") from None
    commit = labels.get("org.opencontainers.image.revision", "unknown")
    if commit != here["EPBOX_REVISION"]:
        say(f"warning: {image} was built from commit {commit}, this checkout is {here['EPBOX_REVISION']}")
    return {"EPBOX_REVISION": commit, "SOURCE_DATE_EPOCH": str(ship.created(labels))}


def _copy_checkout(target: Path) -> None:
    for part in ("images", "entrypoints", "templates"):
        shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", target / "pyproject.toml")
    (target / "tmp").mkdir()


def _build(
    what: Recipe, tag: str, where: engine.Engine, copy: Path, identity: Mapping[str, str], source: Sequence[str], varied: bool
) -> None:
    """One build from `copy`, in a process of its own; `varied`: with a fresh base, in an environment that differs."""
    environment = {**where.environment(), **identity, "TMPDIR": str(copy / "tmp")}
    code = (
        "import sys; from images.build import BuildOptions, build; from entrypoints.errors import EPBoxError\n"
        "name, tag, fresh, locked, *source = sys.argv[1:]\n"
        "try: build(BuildOptions(name, source, tag=tag, no_cache=True, fresh_base=fresh == '1', locked=locked == '1'))\n"
        "except EPBoxError as error: print(error, file=sys.stderr); sys.exit(error.exit_code)"
    )
    locked = lock.load(what) is not None
    command = [sys.executable, "-c", code, what.name, tag, str(int(varied)), str(int(locked)), *source]
    if varied:
        environment |= {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
        environment |= {"NO_FAKE_STAT": "1"}  # faketime shall change what the time is, not what files say of theirs
        # The base is bootstrapped by this process, so its host name, CPUs and clock take part.
        line = f"umask 027; {'hostname other-host; ' if _own_name() else ''}exec {_one_cpu()}{_later()}{shlex.join(command)}"
        command = [*(["unshare", "--uts"] if _own_name() else []), "sh", "-c", line]
    done = subprocess.run(command, cwd=copy, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise EngineError(f"the build for {tag} ended with exit code {done.returncode}", hint="the lines above say why")


def variation() -> tuple[str, ...]:
    """How the second build differs on this host. What runs in the engine's build containers has the engine's host name, clock and CPUs."""
    always = ("folder of the checkout", "temporary folder", "umask", "locale", "time zone", "hash seed")
    able = {"host name": _own_name(), "CPU count": bool(_one_cpu()), f"clock of this host's programs ({_LATER})": bool(_later())}
    return (*always, *(what for what, possible in able.items() if possible))


def _own_name() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None


def _one_cpu() -> str:
    return f"taskset --cpu-list {min(os.sched_getaffinity(0))} " if shutil.which("taskset") else ""


def _later() -> str:
    return f"faketime -f {_LATER} " if shutil.which("faketime") else ""
