"""The shape of the program: who imports whom, that a clone has all of it, how large it may be, and that the docs name what exists."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest

from docs import draw_architecture, rooms
from entrypoints import __version__
from entrypoints.preflight.run import CHECKS
from images.build import recipe
from tests.helpers import torch_python

ROOT = Path(__file__).parents[1]

#: Lines of Python in entrypoints, images and tasks.py, as `wc -l` counts them. It may fall; whoever must raise it says in the commit why.
PYTHON_LINES = 25_500
#: Times that `dict[str, Any]` may stand there: inside codecs, and nowhere between rooms. It may fall as well.
UNTYPED_DICTS = 120

#: The folders whose files the docs name.
TOPS = ("docs", "entrypoints", "images", "requirements", "templates", "tests")
#: Names in the docs that stand for any one: images/recipes/NAME.toml.
PLACEHOLDER = re.compile(r"NAME|RECIPE|[*<>{}…]|/[A-Z]\b")


def sources(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """The modules of a small program, written to a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return rooms.modules(folder)


def module_graph(files: Mapping[str, Path]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {name: set() for name in files}
    for arrow in rooms.imports(files):
        graph[arrow.importer].add(arrow.imported)
    return graph


# What is read


def test_imports_are_seen_in_every_form(tmp_path: Path) -> None:
    files = sources(
        tmp_path,
        {
            "tasks.py": "import images.build.lock\nfrom images import build\n",
            "images/__init__.py": "",
            "images/build/__init__.py": "",
            "images/build/lock.py": "from . import image\nfrom .image import name\nfrom .. import menu\n",
            "images/build/image.py": "def name():\n    from images.menu import one\n",
            "images/menu.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from images.build.lock import Lock\n",
        },
    )
    assert [str(arrow) for arrow in rooms.imports(files)] == [
        "images.build.image:2 imports images.menu",
        "images.build.lock:1 imports images.build.image",
        "images.build.lock:2 imports images.build.image",
        "images.build.lock:3 imports images.menu",
        "images.menu:3 imports images.build.lock",
        "tasks:1 imports images.build.lock",
        "tasks:2 imports images.build",
    ]
    circle = rooms.circle(module_graph(files))
    assert circle[0] == circle[-1] and {"images.build.lock", "images.menu"} <= {*circle}, "the import under TYPE_CHECKING closes it"
    assert {*rooms.circle(rooms.room_imports(files))} == {"images/*.py", "images/build"}


def test_a_new_package_needs_a_room(tmp_path: Path) -> None:
    files = sources(tmp_path, {"entrypoints/__init__.py": "", "entrypoints/errors.py": "", "entrypoints/attic/__init__.py": ""})
    assert rooms.room_of("entrypoints.errors", files) == rooms.GROUND
    with pytest.raises(LookupError, match=r"entrypoints\.attic is in no room: give its package a row in ROOMS of docs/rooms\.py"):
        rooms.room_of("entrypoints.attic", files)


def test_floors_and_direct_arrows() -> None:
    graph = {"roof": {"middle", "ground", "side"}, "middle": {"ground"}, "side": set(), "ground": set[str]()}
    assert rooms.floors(graph) == {"ground": 0, "side": 0, "middle": 1, "roof": 2}
    assert rooms.direct(graph) == {"roof": {"middle", "side"}, "middle": {"ground"}, "side": set(), "ground": set()}


# The program


@pytest.fixture(scope="module")
def program() -> dict[str, Path]:
    return rooms.modules()


def test_no_module_imports_itself_in_a_circle(program: dict[str, Path]) -> None:
    assert rooms.circle(module_graph(program)) == []


def test_rooms_import_only_rooms_below_them(program: dict[str, Path]) -> None:
    height = {room.name: floor for floor, room in enumerate(rooms.ROOMS)}

    def room(module: str) -> int:
        return height[rooms.room_of(module, program)]

    upward = [str(arrow) for arrow in rooms.imports(program) if room(arrow.imported) > room(arrow.importer)]
    assert upward == [], "the order of rooms, and its reasons, are ROOMS of docs/rooms.py"
    assert rooms.circle(rooms.room_imports(program)) == []


def test_no_room_of_the_table_is_empty(program: dict[str, Path]) -> None:
    assert {rooms.room_of(module, program) for module in program} == {room.name for room in rooms.ROOMS}


def test_drawing_and_list_of_rooms_are_those_of_the_imports() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in draw_architecture.outputs().items() if path.read_text() != text]
    assert stale == [], "python3 -m docs.draw_architecture writes them again"


def test_words_fit_into_their_boxes() -> None:
    # In 178 pixels, at 7 a letter of what it holds and 8 of its name.
    assert [room.name for room in rooms.ROOMS[1:] if max(map(len, room.holds)) > 24 or len(room.name) > 21] == []


# A clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone, brought to what a commit of all that git does not ignore would hold."""
    folder = tmp_path_factory.mktemp("clone") / "epbox"
    if git("rev-parse", "--show-toplevel", may_fail=True) != str(ROOT):
        pytest.skip("this folder is no checkout of git's: nothing to clone")
    git("clone", "--quiet", str(ROOT), str(folder))
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]:
        here, there = ROOT / name, folder / name
        there.unlink(missing_ok=True)
        if here.is_file():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(here.read_bytes())
    return folder


def git(*words: str, may_fail: bool = False) -> str:
    """What git prints. A checkout that is another user's is read all the same: nothing of it is run."""
    trust = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, env={**os.environ, **trust}, capture_output=True, text=True, timeout=120, check=True
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        if not may_fail:
            raise
        return ""
    return done.stdout.strip("\n")


#: Prints, for each module that does not import: its name and the error. Every module must come from the clone.
_IMPORT_ALL = """
import importlib, json, sys
failed = {}
for name in json.load(sys.stdin):
    try:
        module = importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
    else:
        assert module.__file__.startswith(sys.argv[1]), module.__file__
print(json.dumps(failed))
"""


def not_importable(python: str, names: list[str], folder: Path) -> dict[str, str]:
    """The modules that this Python cannot import in the folder, each with its error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EPBOX_", "PYTHON"))}
    command = [python, "-B", "-c", _IMPORT_ALL, str(folder)]
    done = subprocess.run(command, cwd=folder, env=clean, input=json.dumps(names), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout)
    return failed


def test_a_clone_has_every_module_of_this_checkout(clone: Path, program: dict[str, Path]) -> None:
    missing = sorted(program.keys() - rooms.modules(clone).keys())
    assert missing == [], "ignored by git? git check-ignore --verbose names the line"


def test_every_module_imports_in_a_clone(clone: Path) -> None:
    failed = not_importable(sys.executable, [*rooms.modules(clone)], clone)
    assert {name: error for name, error in failed.items() if error != "ModuleNotFoundError: No module named 'torch'"} == {}
    assert all(name.startswith("entrypoints.workloads.") for name in failed), "ranks alone have torch"


@pytest.mark.torch
def test_every_module_of_the_image_imports_beside_torch(clone: Path) -> None:
    names = [name for name in rooms.modules(clone) if name.startswith("entrypoints")]
    assert not_importable(torch_python.need(), names, clone) == {}


# Size


def test_python_does_not_grow_unseen(program: dict[str, Path]) -> None:
    texts = [path.read_text() for path in program.values()]
    assert sum(text.count("\n") for text in texts) <= PYTHON_LINES
    assert sum(text.count("dict[str, Any]") for text in texts) <= UNTYPED_DICTS


# Docs

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tests/**/*.md")])


@pytest.fixture(scope="module")
def tree() -> set[str]:
    """Files and folders of this checkout, as their paths from its top."""
    paths = [path for top in (".ci", *TOPS) for path in ROOT.glob(f"{top}/**/*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(ROOT)) for path in [*ROOT.iterdir(), *paths]} | {*TOPS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_named_in_docs_exist(page: Path, tree: set[str]) -> None:
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        # What is gone may be named as gone.
        text = re.sub(r"(?ms)^### Removed$.*?(?=^##)", "", text)
    quoted = re.findall(r"`([^`\s]+)`", text)
    paths = {name.removeprefix("./").rstrip("/") for name in quoted if name.removeprefix("./").split("/")[0] in TOPS and "/" in name}
    # A name without a folder is a file of some folder: `model.py`.
    bare = {name for name in quoted if re.fullmatch(r"[\w-]+\.(py|toml|md|j2)", name)}
    missing = {name for name in paths if name not in tree} | (bare - {path.rpartition("/")[2] for path in tree})
    assert sorted(name for name in missing if not PLACEHOLDER.search(name)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_docs_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", page.read_text())
    local = [link or other for link, other in links if not re.match(r"[a-z]+:", link or other)]
    broken = []
    for link in local:
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in headings(target)):
            broken.append(link)
    assert broken == []


def test_lists_in_docs_are_whole() -> None:
    doctor = (ROOT / "docs/doctor.md").read_text()
    # `.memlock` behind `container.runtime` is container.memlock.
    ids, group = set(), ""
    for name in re.findall(r"`([a-z]*\.[a-z]+)`", doctor):
        group = name.partition(".")[0] or group
        ids.add(f"{group}.{name.partition('.')[2]}")
    assert {check.id for check in CHECKS} - ids == set(), "docs/doctor.md"
    assert {name for name in recipe.names() if f"`{name}`" not in (ROOT / "docs/images.md").read_text()} == set(), "docs/images.md"


def test_every_step_of_a_walk_is_a_function_of_the_program() -> None:
    walks = (ROOT / "docs/architecture.md").read_text().partition("## Three walks")[2].partition("\n## ")[0]
    steps = [step for line in re.findall(r"(?m)^ {6,}(.+?) +→", walks) for step in line.split(", ")]
    assert len(steps) > 20
    for step in steps:
        module, _, name = step.rpartition(".")
        package = "images.build" if "." not in module and module != "binding" else "entrypoints"
        assert callable(getattr(import_module(f"{package}.{module}"), name)), step


def headings(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    lines = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_newest_version_is_the_one_of_the_program() -> None:
    newest = re.search(r"(?m)^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text())
    assert newest and newest[1] == __version__
    # pyproject.toml has no version of its own.
    assert 'attr = "entrypoints.__version__"' in (ROOT / "pyproject.toml").read_text()
