"""`build`: recipe to image. Streams progress, keeps the log, and tags only what was built to the end."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from entrypoints import ROOT, __version__
from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say

from . import base, engine, hostconfig, inventory, lock, recipe, reference, render, sources
from .progress import Progress, likely_cause

LOGS = ROOT / "build" / "logs"


@dataclass(frozen=True)
class BuildOptions:
    """What a user chooses for one build. `tag` None means epbox:RECIPE; `source` are NAME=PATH words."""

    recipe: str
    source: Sequence[str] = ()
    engine: str = "auto"
    tag: str | None = None
    platform: str | None = None
    no_cache: bool = False
    locked: bool = False  # drift from the lock is an error instead of a warning and a label
    fresh_base: bool = False  # bootstrap the base again


@dataclass(frozen=True)
class Image:
    """A built image: its name, its id (digest of its configuration), its recipe and the lock it was made from."""

    name: str
    id: str
    recipe: str
    lock: str
    engine: engine.Engine


def build(options: BuildOptions) -> Image:
    """Build one image. UsageError before anything starts when the recipe or a source is wrong; EngineError when a step fails."""
    what = recipe.load_recipe(options.recipe)
    if options.tag and not reference.is_tag(options.tag):
        raise UsageError(f"{options.tag!r} is no image name", where="--tag", hint="[REGISTRY/]NAME[:TAG], the name in lower case")
    given = sources.parse(options.source, what)
    locked = lock.load(what)
    lock.check(what, locked)
    if options.locked and locked is None:
        raise UsageError(f"recipe {what.name} has no lock", where="--locked", hint=f"make one: ./inv lock --recipe {what.name}")
    where = engine.ensure(options.engine)
    command = list(engine.buildkit_cli())
    started = time.monotonic()
    name = options.tag or f"epbox:{what.name}"
    with TemporaryDirectory(prefix="epbox-build-") as folder:
        context, identity = Path(folder, "context"), Path(folder, "iid")
        context.mkdir()
        archives = {}
        for part, path in given.items():
            archives[part] = Path(folder, f"{part}.tar")
            sources.archive(part, path, sources.commits(what)[part], archives[part])
            sources.check_tree(part, archives[part], locked)
        ready = base.ensure(what.base, where, locked, options.fresh_base, options.locked)
        command += ["--progress", "plain", "--network", "host", "--iidfile", str(identity)]
        command += [f"--build-arg={key}={value}" for key, value in _identity(ready.digest).items()]
        command += ["--platform", options.platform] if options.platform else []
        command += ["--no-cache"] if options.no_cache else []
        gone: tuple[str, ...] = ()
        snapshot: tuple[str, ...] = ()
        while True:
            render.write_context(what, context, locked, archives, gone, ready.drift)
            arguments = _lock_labels(context, (*ready.drift, *gone)) if locked else []
            with hostconfig.secret_arguments(what.base.suite, snapshot) as secrets:
                more = _run([*command, *arguments, *secrets, str(context)], where, what)
            if not more:
                break
            if locked and not snapshot and hostconfig.snapshot_answers():
                say(f"the mirror has no more: {', '.join(more)}; trying Debian's snapshot archive")
                snapshot = hostconfig.snapshot_sources(locked["archive"])
            else:
                _accept_drift(more, gone, options.locked)
                gone = (*gone, *more)
            context = Path(folder, f"context-{len(gone)}-{len(snapshot)}")
            context.mkdir()
        image_id = identity.read_text().strip()
    _tag(where, image_id, name)
    say(f"built {name} ({image_id[7:19]}) in {time.monotonic() - started:.0f} s")
    return Image(name, image_id, what.name, lock.digest(locked), where)


def default_recipe() -> str:
    """What a bare `build` means: the image that runs DeepEP, or cpu as long as there is no such recipe."""
    return "deepep-v1" if "deepep-v1" in recipe.names() else "cpu"


def epoch() -> int:
    """SOURCE_DATE_EPOCH, else the commit time of the checkout: the time that images carry, in UTC seconds."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or revision()[1])


def revision() -> tuple[str, int]:
    """The checkout's commit (with -dirty when files differ) and its commit time; ("unknown", 0) outside a checkout.

    EPBOX_REVISION says it for a copy without repository.
    """
    if os.environ.get("EPBOX_REVISION"):
        return os.environ["EPBOX_REVISION"], int(os.environ.get("SOURCE_DATE_EPOCH") or 0)
    done = subprocess.run(["git", "-C", str(ROOT), "log", "-1", "--format=%H %ct"], capture_output=True, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        return "unknown", 0
    commit, seconds = done.stdout.split()
    dirty = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True).stdout
    return commit + ("-dirty" if dirty.strip() else ""), int(seconds)


def _identity(base_digest: str) -> dict[str, str]:
    commit, _ = revision()
    created = datetime.fromtimestamp(epoch(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"EPBOX_VERSION": __version__, "EPBOX_REVISION": commit, "EPBOX_CREATED": created, "EPBOX_BASE_DIGEST": base_digest}


def _lock_labels(context: Path, drift: Sequence[str]) -> list[str]:
    """Build arguments for the labels that only a locked image has."""
    digest = inventory.digest((context / "epbox" / inventory.SPDX).read_bytes())
    return [f"--build-arg=EPBOX_LOCK_DRIFT={', '.join(drift) or 'none'}", f"--build-arg=EPBOX_SBOM={digest}"]


def _accept_drift(more: Sequence[str], before: Sequence[str], strict: bool) -> None:
    """Warn of packages that left the mirror; EngineError when that is forbidden or goes in circles."""
    for line in more:
        say(f"warning: drift from the lock: {line}")
    if strict:
        hint = "lock what there is now: ./inv lock --update; or build without --locked"
        raise EngineError(f"the mirror no longer has what the lock names: {', '.join(more)}", where="--locked", hint=hint)
    if set(more) <= set(before):
        raise EngineError("the mirror changes while it is read", hint="run it again")


def _run(command: Sequence[str], where: engine.Engine, what: recipe.Recipe) -> tuple[str, ...]:
    """Run the docker CLI to its end. Packages of the lock that the mirror has no more are returned, for another try.

    Any other failed step becomes an EngineError after its last lines were shown.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{what.name}.log"
    with path.open("w") as log:
        progress = Progress(log, sys.stderr, live=sys.stderr.isatty())
        process = subprocess.Popen(
            command,
            env=where.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                progress.feed(line)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            progress.finish()
    if code == 0:
        return ()
    text = path.read_text(errors="replace")
    gone = tuple(dict.fromkeys(re.findall(r"epbox: drift: (\S+ \S+ -> \S+)", text)))
    if gone:
        return gone
    broken = _broken(text)
    if broken:
        raise EngineError(broken, where=recipe.shown(path), hint="do not use this mirror, or make the lock again: ./inv lock --update")
    for line in progress.tail():
        say(f"  | {line}")
    cause = likely_cause([*progress.tail(), progress.last])
    raise EngineError(
        f"building {what.name} failed {f'at {progress.title()[:160]}' if progress.failed else 'before the first step'}",
        where=f"{recipe.shown(path)}",
        hint=f"likely cause: {cause}" if cause else "the lines above are the end of its output",
    )


def _broken(log: str) -> str | None:
    """What a step found to be another file than the lock's: a step's own words about a package, or pip's about a wheel."""
    found = re.search(r"epbox: lock: (.+)", log)
    if found:
        return found[1].strip()
    plain = re.sub(r"^#\d+ [\d.]+ ", "", log, flags=re.MULTILINE)  # BuildKit puts step and seconds before every line
    wheel = re.search(r"^ *(\S+)(?: from [^\n]*)?:\s+Expected sha256 (\w+(?:\s+Expected +or \w+)*)\s+Got +(\w+)", plain, re.MULTILINE)
    if wheel is None:
        return None
    locked = re.sub(r"\s+Expected +or ", " or ", wheel[2])
    return f"{wheel[1]} has sha256 {wheel[3]}, the lock says {locked}"


def _tag(where: engine.Engine, image_id: str, name: str) -> None:
    """Give the finished image its name; the image that had it before goes when nothing else names or uses it."""
    import docker

    client = where.client()
    try:
        before = client.images.get(name).id
    except docker.errors.ImageNotFound:
        before = None
    repository, _, tag = name.rpartition(":") if ":" in name.rsplit("/", 1)[-1] else (name, "", "latest")
    client.images.get(image_id).tag(repository, tag)
    if before and before != image_id and not client.images.get(before).tags:
        try:
            client.api.remove_image(before, noprune=True)
        except docker.errors.APIError:
            return  # a container still uses it
