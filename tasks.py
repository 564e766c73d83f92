"""The menu of ./inv: build images, bench them, test and lint. Each task reads its options and makes one call."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context

from entrypoints.output import say
from images.menu import OptionsTask, options_task, task, words
from images.options import RECIPE, BenchOptions, BuildOptions, Runner
from images.run.kubernetes import tasks as kubernetes
from images.run.schedulers import docker, mpi, slurm

#: What runs an image on several nodes: each is a part of the menu with its own options, and a task `render`.
RUNNERS: tuple[Runner[Any], ...] = (kubernetes.RUNNER, slurm.RUNNER, docker.RUNNER, mpi.RUNNER)


def verb(name: str, words: list[str], options: dict[str, str]) -> int:
    """Run a verb of the program here, with those options that are set, and return its exit code."""
    from entrypoints.__main__ import main

    return main([name, *words, *(f"--{option}={value}" for option, value in options.items() if value)])


@options_task("build", BuildOptions)
def build(options: BuildOptions) -> None:
    """Build an image from a recipe."""
    from images.build import image as build
    from images.build import ship

    if options.push:
        ship.require_registry(options.tag or "")
    image = build.build(options)
    saved = ship.save(image, Path(options.oci)) if options.oci else None
    if options.push:
        print(ship.push(image, saved))


@task(
    help={
        "recipe": RECIPE,
        "out": "folder for the Dockerfile and its build context (default: the Dockerfile to stdout)",
        "check": "write nothing; exit 2 or 10 when a lock does not fit its recipe (default: every recipe)",
    }
)
def render(c: Context, recipe: str = "", out: str = "", check: bool = False) -> None:
    """Write a recipe's Dockerfile, or its whole build context for a plain `docker build`."""
    from images.build import base, checks, lock, render
    from images.build import image as build
    from images.build.recipe import load_recipe

    if check:
        checks.rendering(recipe or None)
        return
    what = load_recipe(recipe or build.default_recipe())
    lock.check(what, lock.load(what))
    if out:
        render.render_to(what, Path(out), lock.load(what))
    else:
        sys.stdout.write(render.render_dockerfile(what, lock.load(what)))
    if what.base.kind == "debian":
        say(f"note: no registry has {base.reference(what.base, lock.load(what))}: ./inv build makes it in the engine, once")


@task(
    iterable=["source"],
    help={
        "recipe": RECIPE,
        "update": "resolve everything again, also when the lock fits",
        "source": "NAME=PATH: local repository to read the pinned commit from (repeatable)",
    },
)
def lock(c: Context, recipe: str = "", update: bool = False, source: list[str] | None = None) -> None:
    """Resolve all that a recipe pulls (packages, wheels, commits) and write images/locks/RECIPE/lock.json."""
    from images.build import image as build
    from images.build import resolve, sources
    from images.build.recipe import load_recipe

    what = load_recipe(recipe or build.default_recipe())
    print(resolve.write(what, update, repositories=sources.parse(source or (), what)))


@task(
    iterable=["source"],
    help={
        "recipe": "build this recipe twice without cache, as differently as this host can, and compare",
        "image": "check this image against its lock, labels and SBOM; with --recipe: build once and compare with it",
        "source": "NAME=PATH: repository or tarball that holds the pinned commit (repeatable)",
        "engine": "auto or docker",
        "oci": "keep the verified image as OCI layout archive",
    },
)
def verify(c: Context, recipe: str = "", image: str = "", source: list[str] | None = None, engine: str = "auto", oci: str = "") -> None:
    """Prove that a recipe builds the same bytes twice (exit 6 when not), or that an image is what its lock says."""
    from images.build import examine, verify
    from images.build import image as build

    if image and not recipe:
        print("\n".join(f"PASS  {line}" for line in examine.verify_image(image, engine)))
    else:
        keep = Path(oci) if oci else None
        print(verify.verify_recipe(recipe or build.default_recipe(), engine, keep, tuple(source or ()), image or None))


@task(
    help={
        "recipe": RECIPE,
        "tag": "image (default epbox:RECIPE; it must have been built)",
        "out": "folder for SBOMs, provenance and licences (default: sbom/RECIPE)",
        "engine": "auto or docker",
    }
)
def sbom(c: Context, recipe: str = "", tag: str = "", out: str = "", engine: str = "auto") -> None:
    """Write what an image holds: SPDX and CycloneDX, a provenance statement, and the licences."""
    from images.build import examine
    from images.build import image as build

    name = recipe or build.default_recipe()
    for path in examine.write_sboms(name, tag or f"epbox:{name}", Path(out or f"sbom/{name}"), engine):
        print(path)


@options_task("bench", BenchOptions)
def bench(options: BenchOptions) -> int:
    """Build what fits this host, run the bench in it on two nodes, and show the numbers."""
    from images.run import host

    return host.bench(options)


@task(
    help={
        "folder": "result folder, its result.json, a folder of logs, or index.jsonl for all results over time",
        "output": "file (default: report.html in the folder; Markdown to standard output)",
        "format": "html or markdown",
        "baseline": "all-to-all result to compare with",
    }
)
def report(c: Context, folder: str, output: str = "", format: str = "", baseline: str = "") -> int:
    """Write a result folder as one page; needs no container."""
    return verb("report", [folder], {"output": output, "format": format, "baseline": baseline})


@task(
    iterable=["more", "min_gbps"],
    auto_shortflags=False,
    help={
        "log": "log, folder of logs, result folder, result.json, index.jsonl for all results over time, or - for standard input",
        "more": "another one (repeatable)",
        "compare": "set this one beside LOG",
        "format": "table, json or markdown",
        "nodes": "number of nodes, where the log does not tell it",
        "port-gbps": "line rate of an HCA port in Gb/s",
        "min-gbps": "[OP=]GBPS: exit 7 below it (repeatable)",
        "min-ratio": "exit 7 below this share of the published result",
        "args": "more options for `epbox results`, in quotes",
    },
)
def results(
    c: Context,
    log: str,
    more: list[str] | None = None,
    compare: str = "",
    format: str = "",
    nodes: int = 0,
    port_gbps: str = "",
    min_gbps: list[str] | None = None,
    min_ratio: str = "",
    args: str = "",
) -> int:
    """Numbers out of logs and result folders: tables, JSON, gates, comparison, history; needs no container."""
    logs = ["--compare", log, compare] if compare else [log, *(more or ())]
    options = {"format": format, "nodes": str(nodes or ""), "port-gbps": port_gbps, "min-ratio": min_ratio}
    return verb("results", [*logs, *(f"--min-gbps={gate}" for gate in min_gbps or ()), *words(args)], options)


@task(
    help={
        "container": "run the tests that need a container engine (a private one is started where none answers)",
        "guest": "run the tests that boot QEMU guests",
        "gpu-images": "run the tests of the GPU images that are built here, and no other",
        "args": "more options for pytest, in quotes",
    }
)
def test(c: Context, container: bool = True, guest: bool = True, gpu_images: bool = False, args: str = "") -> int:
    """Run the tests, after installing what they use (root, Debian or Ubuntu); --no-container and --no-guest leave the heavy ones out."""
    import os

    from images.command import call
    from tests.helpers import tools

    environment = {**os.environ, "EPBOX_TEST_CONTAINER": str(int(container)), "EPBOX_TEST_GUEST": str(int(guest))}
    selection = ["tests/gpu_images"] if gpu_images else ["--numprocesses", str(len(os.sched_getaffinity(0)))]
    tools.install(container, guest and not gpu_images)
    return call([sys.executable, "-m", "pytest", *selection, *words(args)], env=environment)


@task(help={"fast": "only what takes seconds: no types, no Dockerfiles"})
def lint(c: Context, fast: bool = False) -> int:
    """Check style, types, shell files and every rendered Dockerfile."""
    from images.build import checks

    return 1 if checks.lint(fast) else 0


@task(name="engine.start")
def engine_start(c: Context) -> None:
    """Start the private engine, unless an engine answers already."""
    from images.build import engine

    print(engine.describe(engine.ensure()))


@task(name="engine.stop")
def engine_stop(c: Context) -> None:
    """End the private engine and all that runs in it; other engines are left alone."""
    from images.build import private_engine

    print("private engine: stopped" if private_engine.stop() else "private engine: not running")


@task(name="engine.status")
def engine_status(c: Context) -> None:
    """Say which engine answers; exit 10 when none does."""
    from images.build import engine

    print(engine.describe(engine.find()))


def _render(runner: Runner[Any], options: Any) -> None:
    sys.stdout.write(runner.render(options))
    for note in runner.notes(options):
        say(f"note: {note}")


ns = Collection(build, render, lock, verify, sbom, bench, report, results, test, lint)
renderings = [OptionsTask(f"{runner.name}.render", runner.about, runner.options, partial(_render, runner)) for runner in RUNNERS]
for part_task in (engine_start, engine_stop, engine_status, *renderings, kubernetes.run_on_cluster):
    part, name = part_task.name.split(".")
    if part not in ns.collections:
        ns.add_collection(Collection(part))
    ns.collections[part].add_task(part_task, name=name)
