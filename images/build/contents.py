"""What an image really holds: dpkg's word, the wheels' metadata folders, EPBox's own files, and what was compiled from source."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from . import debian, oci

#: EPBox's files in an image, and dpkg's record.
WANTED = ("recipe.toml", "lock.json", "sbom.spdx.json", "sbom.cdx.json")
_HOME, _STATUS = "opt/epbox/", "var/lib/dpkg/status"
# Debian's own Python modules lie in /usr/lib/python3 and are Debian packages; what lies directly in these folders came as wheel.
_METADATA = re.compile(r"(?:usr/local/lib/python3[^/]*/dist-packages|opt/cuda)/([^/-]+)-([^/-]+)(?:-py3\.\d+)?\.(?:dist|egg)-info(?:/.*)?")
_NVSHMEM = re.compile(r"opt/nvshmem/lib/libnvshmem_host\.so\.(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Contents:
    """EPBox's files by name; Debian packages by name to version; wheels; what was compiled, by name to version (DeepEP: its commit)."""

    files: Mapping[str, bytes]
    debian: Mapping[str, str]
    wheels: frozenset[tuple[str, str]]
    compiled: Mapping[str, str]


def read(layout: oci.Layout) -> Contents:
    """Read all layers, later ones over earlier ones."""
    files: dict[str, bytes] = {}
    names: set[str] = set()
    for layer in layout.layers:
        for member, content in oci.entries(layout, layer):
            folder, _, name = member.name.rpartition("/")
            if name.startswith(".wh."):
                gone = f"{folder}/{name[4:]}" if name != ".wh..wh..opq" else folder
                names = {each for each in names if each != gone and not each.startswith(f"{gone}/")}
                files = {path: text for path, text in files.items() if path != gone and not path.startswith(f"{gone}/")}
            elif _METADATA.fullmatch(member.name) or _NVSHMEM.fullmatch(member.name):
                names.add(member.name)
            elif content and member.name in (_STATUS, *(_HOME + each for each in WANTED)):
                files[member.name] = content.read()
    python = {(normal(found[1]), found[2]) for each in names if (found := _METADATA.fullmatch(each))}
    compiled: dict[str, str] = {}
    for each in names:
        if found := _NVSHMEM.fullmatch(each):
            compiled["nvshmem"] = found[1]
    for each, version in python:
        if each == "deep-ep":
            compiled["deepep"] = version.partition("+")[2]
    own = {path.removeprefix(_HOME): text for path, text in files.items() if path != _STATUS}
    return Contents(own, debian.installed(files.get(_STATUS, b"").decode()), wheels_only(python), compiled)


def normal(name: str) -> str:
    """A distribution's name in the one spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wheels_only(packages: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Python packages without DeepEP, which is compiled here."""
    return frozenset(pair for pair in packages if pair[0] != "deep-ep")


def wheel_path(path: str) -> bool:
    """True for a metadata file (absolute path) of a package that did not come from Debian."""
    return bool(_METADATA.fullmatch(path.lstrip("/")))
