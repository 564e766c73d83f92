"""The menu of ./inv: build images, bench them, test and lint. Each task reads its options and makes one call."""

import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from images.menu import exit_code
from images.run.kubernetes import tasks as k8s_tasks
from images.run.schedulers import tasks as cluster_tasks

RECIPE = "recipe of images/recipes/ (default: deepep-v1 where that exists, else cpu)"


def verb(name: str, words: list[str], options: dict[str, str]) -> None:
    """Run a verb of the program here, with those options that are set; its exit code is the task's."""
    from entrypoints.__main__ import main

    code = main([name, *words, *(f"--{option}={value}" for option, value in options.items() if value)])
    if code:
        raise Exit(code=code)


@task(
    iterable=["source"],
    help={
        "recipe": RECIPE,
        "source": "NAME=PATH: repository or tarball that holds the pinned commit (repeatable)",
        "engine": "auto or docker",
        "tag": "name of the image (default epbox:RECIPE)",
        "push": "push it to the registry that --tag names, and print name@digest, the digest that verify proves",
        "platform": "such as linux/arm64",
        "oci": "also write the image to this file, as OCI layout archive with reproducible bytes",
        "no-cache": "run every step again",
        "locked": "fail when the mirror no longer has what the lock names, instead of a warning and a label",
    },
)
def build(
    c: Context,
    recipe: str = "",
    source: list[str] | None = None,
    engine: str = "auto",
    tag: str = "",
    push: bool = False,
    platform: str = "",
    oci: str = "",
    no_cache: bool = False,
    locked: bool = False,
) -> None:
    """Build an image from a recipe."""
    from images.build import image as build
    from images.build import registry, ship

    with exit_code("build"):
        if push:
            registry.ready(tag)
        name = recipe or build.default_recipe()
        image = build.build(build.BuildOptions(name, tuple(source or ()), engine, tag or None, platform or None, no_cache, locked))
        saved = ship.save(image, Path(oci)) if oci else None
        if push:
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
    from entrypoints.output import say
    from images.build import base, checks, lock, render
    from images.build import image as build
    from images.build.recipe import load_recipe

    with exit_code("render"):
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

    with exit_code("lock"):
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

    with exit_code("verify"):
        if image and not recipe:
            print("\n".join(f"PASS  {line}" for line in examine.verify_image(image, engine)))
        else:
            keep = Path(oci) if oci else None
            print(verify.verify_recipe(recipe or build.default_recipe(), engine, keep, tuple(source or ()), image or None).text())


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
    from images.build import image as build
    from images.build import sbom

    with exit_code("sbom"):
        name = recipe or build.default_recipe()
        for path in sbom.write(name, tag or f"epbox:{name}", Path(out or f"sbom/{name}"), engine):
            print(path)


@task(
    help={
        "recipe": "default: the one that fits this host",
        "engine": "auto, docker, or host: no image, the same program straight on this host",
        "nodes": "containers (or processes) to run as nodes",
        "ranks": "ranks a node (default: one a GPU, 2 without)",
        "out": "result folder (default: results/<UTC time>)",
        "workload": "alltoall, deepep-internode, ... (default: auto)",
        "runs": "repeat every arm this often",
        "ablate": "measure what each part of the binding is worth",
        "baseline": "run the all-to-all of the same shape in turns with DeepEP",
        "args": "more options for `epbox bench`, in quotes",
    }
)
def bench(
    c: Context,
    recipe: str = "",
    engine: str = "auto",
    nodes: int = 2,
    ranks: int = 0,
    out: str = "",
    workload: str = "",
    runs: int = 0,
    ablate: bool = False,
    baseline: bool = False,
    args: str = "",
) -> None:
    """Build what fits this host, run the bench in it on two nodes, and show the numbers."""
    import shlex

    from images.run import host as bench_host

    with exit_code("bench"):
        where = Path(out) if out else None
        arguments = [*(["--workload", workload] if workload else []), *(["--runs", str(runs)] if runs else [])]
        arguments += [*(["--ablate"] if ablate else []), *(["--baseline"] if baseline else []), *shlex.split(args)]
        options = bench_host.BenchOptions(recipe or None, engine, nodes, ranks or None, where, arguments=tuple(arguments))
        code = bench_host.bench(options)
    if code:
        raise Exit(code=code)


@task(
    help={
        "folder": "result folder, its result.json, a folder of logs, or index.jsonl for all results over time",
        "output": "file (default: report.html in the folder; Markdown to standard output)",
        "format": "html or markdown",
        "baseline": "all-to-all result to compare with",
    },
)
def report(c: Context, folder: str, output: str = "", format: str = "", baseline: str = "") -> None:
    """Write a result folder as one page; needs no container."""
    verb("report", [folder], {"output": output, "format": format, "baseline": baseline})


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
) -> None:
    """Numbers out of logs and result folders: tables, JSON, gates, comparison, history; needs no container."""
    import shlex

    logs = ["--compare", log, compare] if compare else [log, *(more or ())]
    options = {"format": format, "nodes": str(nodes or ""), "port-gbps": port_gbps, "min-ratio": min_ratio}
    verb("results", [*logs, *(f"--min-gbps={gate}" for gate in min_gbps or ()), *shlex.split(args)], options)


@task(
    help={
        "container": "run the tests that need a container engine (a private one is started where none answers)",
        "guest": "run the tests that boot QEMU guests",
        "gpu-images": "run the tests of the GPU images that are built here, and no other",
        "args": "more options for pytest, in quotes",
    }
)
def test(c: Context, container: bool = True, guest: bool = True, gpu_images: bool = False, args: str = "") -> None:
    """Run the tests, after installing what they use (root, Debian or Ubuntu); --no-container and --no-guest leave the heavy ones out."""
    import os
    import shlex
    import subprocess

    from tests.helpers import tools

    environment = {**os.environ, "EPBOX_TEST_CONTAINER": str(int(container)), "EPBOX_TEST_GUEST": str(int(guest))}
    words = ["tests/gpu_images"] if gpu_images else ["--numprocesses", str(len(os.sched_getaffinity(0)))]
    with exit_code("test"):
        tools.install(container, guest and not gpu_images)
        code = subprocess.run([sys.executable, "-m", "pytest", *words, *shlex.split(args)], env=environment).returncode
    if code:
        raise Exit(code=code)


@task
def lint(c: Context) -> None:
    """Check style, types, shell files and every rendered Dockerfile."""
    from images.build import checks

    with exit_code("lint"):
        failed = checks.lint()
    if failed:
        raise Exit(code=1)


@task(name="start")
def engine_start(c: Context) -> None:
    """Start the private engine, unless an engine answers already."""
    from images.build import engine

    with exit_code("engine.start"):
        print(engine.describe(engine.ensure()))


@task(name="stop")
def engine_stop(c: Context) -> None:
    """End the private engine and all that runs in it; other engines are left alone."""
    from images.build import private_engine

    with exit_code("engine.stop"):
        print("private engine: stopped" if private_engine.stop() else "private engine: not running")


@task(name="status")
def engine_status(c: Context) -> None:
    """Say which engine answers; exit 10 when none does."""
    from images.build import engine

    with exit_code("engine.status"):
        print(engine.describe(engine.find()))


ns = Collection(build, render, lock, verify, sbom, bench, report, results, test, lint)
ns.add_collection(Collection("engine", engine_start, engine_stop, engine_status))
ns.add_collection(k8s_tasks.ns, name="k8s")
for part in cluster_tasks.parts:
    ns.add_collection(part)
