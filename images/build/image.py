"""`build`: recipe to image. Streams progress, keeps the log, and tags only what was built to the end."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TextIO

from entrypoints import ROOT, __version__
from entrypoints.errors import EngineError, UsageError
from entrypoints.output import say
from entrypoints.toml import load_toml
from images.command import probe
from images.options import BuildOptions

from . import base as bases
from . import digest as digests
from . import engine as engines
from . import hostconfig, inventory, reference, render, sources
from . import lock as locks
from . import recipe as recipes
from .engine import Engine

LOGS = ROOT / "build" / "logs"
_STEP = re.compile(r"#(\d+) \[(.+?)\] (.+)")
_END = re.compile(r"#(\d+) (DONE ([\d.]+)s|CACHED|ERROR\b.*|CANCELED)")
_OUTPUT = re.compile(r"#(\d+) (?:[\d.]+ )?(.*)")
_MOUNTS = re.compile(r"--mount=\S+\s+")


@dataclass(frozen=True)
class Image:
    """A built image: its name, its id (digest of its configuration), and the engine that has it."""

    name: str
    id: str
    engine: Engine


class Revision(NamedTuple):
    """A commit of the checkout and its time in UTC seconds."""

    commit: str
    time_s: int


def build(options: BuildOptions) -> Image:
    """Build one image. UsageError before anything starts when the recipe or a source is wrong; EngineError when a step fails."""
    recipe = recipes.load_recipe(options.recipe or default_recipe())
    if options.tag and not reference.is_tag(options.tag):
        raise UsageError(f"not an image name: {options.tag!r}", where="--tag", hint="[REGISTRY/]NAME[:TAG], the name in lower case")
    paths = sources.parse(options.source, recipe)
    lock = locks.load(recipe)
    locks.check(recipe, lock)
    if options.locked and lock is None:
        raise UsageError(f"recipe {recipe.name} has no lock", where="--locked", hint=f"make one: ./inv lock --recipe {recipe.name}")
    engine = engines.ensure(options.engine)
    command = list(engines.buildkit_cli())
    started = time.monotonic()
    name = options.tag or f"epbox:{recipe.name}"
    with TemporaryDirectory(prefix="epbox-build-") as folder:
        id_file = Path(folder, "iid")
        archives = {}
        for part, path in paths.items():
            archives[part] = Path(folder, f"{part}.tar")
            sources.archive(part, path, sources.pinned(recipe)[part].commit, archives[part])
            locks.check_tree(part, archives[part], lock)
        base = bases.ensure(recipe.base, engine, lock, options.fresh_base, options.locked)
        command += ["--progress", "plain", "--network", "host", "--iidfile", str(id_file)]
        command += ["--platform", options.platform] if options.platform else []
        command += ["--no-cache"] if options.no_cache else []
        gone: tuple[str, ...] = ()
        snapshot: tuple[str, ...] = ()
        while True:
            context = Path(folder, f"context-{len(gone)}-{len(snapshot)}")
            render.write_context(recipe, context, lock, archives, gone, base.drift)
            labels = [f"--build-arg={key}={value}" for key, value in _labels(context, base.digest, (*base.drift, *gone)).items()]
            with hostconfig.secret_arguments(recipe.base.suite, snapshot) as secrets:
                missing = _run([*command, *labels, *secrets, str(context)], engine, recipe.name)
            if not missing:
                break
            if lock and not snapshot and hostconfig.snapshot_answers():
                say(f"the mirror has no more: {', '.join(missing)}; trying Debian's snapshot archive")
                snapshot = hostconfig.snapshot_sources(lock.archive)
            else:
                _accept_drift(missing, gone, options.locked)
                gone = (*gone, *missing)
        image_id = id_file.read_text().strip()
    _tag(engine, image_id, name)
    say(f"built {name} ({image_id[7:19]}) in {time.monotonic() - started:.0f} s")
    return Image(name, image_id, engine)


def default_recipe() -> str:
    """The recipe of a bare `build`: the image that runs DeepEP, or cpu as long as there is no such recipe."""
    return "deepep-v1" if "deepep-v1" in recipes.names() else "cpu"


def epoch() -> int:
    """SOURCE_DATE_EPOCH, else the commit time of the checkout: the time that images carry, in UTC seconds."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or revision().time_s)


def revision() -> Revision:
    """The checkout's commit (with -dirty when files differ) and its commit time; "unknown" and 0 outside a checkout.

    EPBOX_REVISION says it for a copy without repository.
    """
    if os.environ.get("EPBOX_REVISION"):
        return Revision(os.environ["EPBOX_REVISION"], int(os.environ.get("SOURCE_DATE_EPOCH") or 0))
    last = probe(["git", "-C", str(ROOT), "log", "-1", "--format=%H %ct"])
    if not last or not last.strip():
        return Revision("unknown", 0)
    commit, seconds = last.split()
    changed = probe(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return Revision(commit + ("-dirty" if changed and changed.strip() else ""), int(seconds))


def _labels(context: Path, base_digest: str, drift: Sequence[str]) -> dict[str, str]:
    """Build arguments for the labels that the Dockerfile's text, which is the same for every commit, cannot have."""
    created = datetime.fromtimestamp(epoch(), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = {"EPBOX_VERSION": __version__, "EPBOX_REVISION": revision().commit, "EPBOX_CREATED": created, "EPBOX_BASE_DIGEST": base_digest}
    sbom = context / "epbox" / inventory.SPDX
    if sbom.exists():  # as in every locked image
        labels |= {"EPBOX_LOCK_DRIFT": ", ".join(drift) or "none", "EPBOX_SBOM": digests.of_file(sbom)}
    return labels


def _accept_drift(missing: Sequence[str], before: Sequence[str], strict: bool) -> None:
    """Warn of packages that left the mirror; EngineError when that is forbidden or goes in circles."""
    for line in missing:
        say(f"warning: drift from the lock: {line}")
    if strict:
        hint = "lock what there is now: ./inv lock --update; or build without --locked"
        raise EngineError(f"the mirror no longer has what the lock names: {', '.join(missing)}", where="--locked", hint=hint)
    if set(missing) <= set(before):
        raise EngineError("the mirror changes while it is read", hint="run it again")


def _run(command: Sequence[str], engine: Engine, recipe: str) -> tuple[str, ...]:
    """Run the docker CLI to its end. Packages of the lock that the mirror has no more are returned, for another try.

    Any other failed step becomes an EngineError after its last lines were shown.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{recipe}.log"
    with path.open("w") as log:
        progress = Progress(log, sys.stderr, live=sys.stderr.isatty())
        process = subprocess.Popen(
            command,
            env=engine.environment(),
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
    where = recipes.shown(path)
    mismatch = _other_hash(text)
    if mismatch:
        raise EngineError(mismatch, where=where, hint="do not use this mirror, or make the lock again: ./inv lock --update")
    for line in progress.tail():
        say(f"  | {line}")
    cause = likely_cause([*progress.tail(), progress.last])
    hint = f"likely cause: {cause}" if cause else "the lines above are the end of its output"
    raise EngineError(f"building {recipe} failed {progress.title()}", where=where, hint=hint)


class Progress:
    """Feed it every line; it writes the log and tells steps to `say`."""

    def __init__(self, log: TextIO, stream: TextIO, live: bool) -> None:
        self._log = log
        self._stream = stream
        self._live = live
        self._titles: dict[str, str] = {}
        self._output: dict[str, list[str]] = {}
        self._started = time.monotonic()
        self.failed: str | None = None
        self.last = ""  # the CLI's own last line, which names the error when no step failed

    def feed(self, line: str) -> None:
        """One line of `docker build --progress plain`."""
        line = line.rstrip("\n")
        self._log.write(line + "\n")
        self.last = line.strip() or self.last
        step, end = _STEP.match(line), _END.match(line)
        if step and step[1] not in self._titles:
            self._titles[step[1]] = f"[{step[2]}] {_MOUNTS.sub('', step[3]).strip()}"
            self._show(self._titles[step[1]])
        elif end and end[1] in self._titles:
            if end[2].startswith("ERROR"):
                self.failed = end[1]
            elif end[3] and float(end[3]) >= 1:
                self.finish()
                print(f"{f'  {self._titles[end[1]]}'[:110]}  {float(end[3]):.0f} s", file=self._stream, flush=True)
        elif output := _OUTPUT.match(line):
            self._output.setdefault(output[1], []).append(output[2])
            if output[2].strip():
                self._show(f"{self._titles.get(output[1], '')}: {output[2]}")
        elif not line.startswith("#"):
            self._output.setdefault(self.failed or "", []).append(line)

    def finish(self) -> None:
        """Clear the live line."""
        if self._live:
            print("\r\033[K", end="", file=self._stream, flush=True)

    def tail(self, count: int = 30) -> list[str]:
        """The last lines that the failed step printed."""
        return [line for line in self._output.get(self.failed or "", []) if line.strip()][-count:]

    def title(self) -> str:
        """Where it failed, in words: at a step, or before any."""
        return f"at {self._titles[self.failed][:160]}" if self.failed else "before the first step"

    def _show(self, text: str) -> None:
        """The one line that is overwritten; only on a terminal."""
        if self._live:
            print(f"\r\033[K{time.monotonic() - self._started:4.0f} s  {text[:100]}", end="", file=self._stream, flush=True)


def likely_cause(lines: Iterable[str]) -> str | None:
    """The first entry of causes.toml whose pattern matches what a failed step printed; None when none does."""
    text = "\n".join(lines)
    causes = load_toml(Path(__file__).with_name("causes.toml"))["cause"]
    return next((str(cause["text"]) for cause in causes if re.search(cause["pattern"], text, re.IGNORECASE)), None)


def _other_hash(log: str) -> str | None:
    """The package or wheel of which a step got another file than the lock's, in the step's own words or pip's; None where there is none."""
    package = re.search(r"epbox: lock: (.+)", log)
    if package:
        return package[1].strip()
    plain = re.sub(r"^#\d+ [\d.]+ ", "", log, flags=re.MULTILINE)  # BuildKit puts step and seconds before every line
    wheel = re.search(r"^ *(\S+)(?: from [^\n]*)?:\s+Expected sha256 (\w+(?:\s+Expected +or \w+)*)\s+Got +(\w+)", plain, re.MULTILINE)
    if wheel is None:
        return None
    locked = re.sub(r"\s+Expected +or ", " or ", wheel[2])
    return f"{wheel[1]} has sha256 {wheel[3]}, the lock says {locked}"


def _tag(engine: Engine, image_id: str, name: str) -> None:
    """Give the finished image its name; the image that had it before goes when nothing else names or uses it."""
    import docker

    client = engine.client()
    before = None
    with suppress(docker.errors.ImageNotFound):
        before = client.images.get(name).id
    named = reference.parse(name, allow_tag=True)
    client.images.get(image_id).tag(named.name, named.tag or "latest")
    if before and before != image_id and not client.images.get(before).tags:
        with suppress(docker.errors.APIError):  # a container still uses it
            client.api.remove_image(before, noprune=True)
