"""Two OCI layouts, entry by entry: the first file that differs, and how."""

import difflib
import shutil
import subprocess
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from .oci import Layout, entries

_SHOWN = 4 << 20  # bytes of a file that are compared as text


@dataclass(frozen=True)
class Difference:
    """Where two images part: the layer's number, the path, what differs, and the content's difference as text."""

    layer: int
    path: str
    what: str
    diff: str = ""


def first_difference(one: Layout, two: Layout) -> Difference | None:
    """The first difference of two layouts, layer by layer in file order; None when their manifests are equal."""
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
        for what in ("type", "mode", "uid", "gid", "mtime", "linkname", "devmajor", "devminor", "pax_headers"):
            if getattr(a, what) != getattr(b, what):
                return Difference(number, a.name, f"{what} {getattr(a, what)} != {getattr(b, what)}")
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
            done = subprocess.run(["diffoscope", "--max-report-size", "4000", *map(str, paths)], capture_output=True, text=True)
            return done.stdout.strip()
    if b"\0" not in one[:_SHOWN] + two[:_SHOWN]:
        left, right = (content[:_SHOWN].decode(errors="replace").splitlines() for content in (one, two))
        return "\n".join(list(difflib.unified_diff(left, right, "first", "second", lineterm="", n=1))[:40])
    offset = next((at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two)))
    return f"first at byte {offset}: {one[offset : offset + 16].hex(' ')} != {two[offset : offset + 16].hex(' ')}"
