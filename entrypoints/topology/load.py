"""Find out by content what a topology source is, and read it."""

import re
import sys
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.topology.model import Topology
from entrypoints.topology.sysfs import read_sysfs
from entrypoints.topology.tree import DirectoryTree, Tree, is_folder

# Readers of other sources than /sys are imported where they are used: a launch on the live host needs none of them, and they
# would be a quarter of what it costs (tests/benchmarks/bench_launch.py).

#: Sizes in MiB that the files of the largest hosts (64 GPUs, 1,024 CPUs, NVLink domains of 72) stay well below.
MAX_JSON, MAX_HWLOC, MAX_NCCL, MAX_MATRIX = 8, 4, 2, 1
MAX_TEXT = MAX_JSON << 20

#: A GPU by nvidia-smi's or rocm-smi's name, also right behind a colour code (which ends in "m") or an escaped "\\t" or "\\n".
_MATRIX = re.compile(r"(?:(?<![A-Za-z0-9])|(?<=m)|(?<=\\[tn]))GPU\[?\d{1,4}(?![A-Za-z0-9])")
#: Tools and device names of matrices that tell nothing of NVIDIA GPUs: Huawei, Intel, Moore Threads, MetaX, Iluvatar, Cambricon, AMD.
_OTHERS = re.compile(
    r"\b(npu-smi|xpu-smi|mthreads-gmi|mx-smi|ixsmi|cnmon|amd-smi|hy-smi|MetaX|MTHREADS)\b"
    r"|\b((?:NPU|XPU|MLU|GCU|DCU) ?\d+|GPU \d+/\d+|XGMI)\b"
)

KINDS = "a sysfs root (folder or tarball), an NCCL or hwloc XML, `nvidia-smi topo -m` text, or JSON of `topology --format json`"


def load(source: str | None = None) -> Topology:
    """The Topology of the live host (None), of standard input ("-") or of a file or folder of any kind that EPBox reads.

    Raises UsageError with file and line for input that is unreadable, of no known kind, or damaged beyond use;
    lesser damage is told in `Topology.warnings`.
    """
    content = _open(source)
    return read_sysfs(content, source or "live") if isinstance(content, Tree) else _from_text(content, source or "live")


def tree_of(source: str | None) -> Tree | None:
    """The sysfs and proc root of a source: the live one for None, a folder's, a tarball's. None for "-" and for any text.

    Raises UsageError as `load` does for a folder or tarball without a root in it.
    """
    content = None if source == "-" else _open(source)
    return content if isinstance(content, Tree) else None


def from_bytes(data: bytes, source: str) -> Topology:
    """The Topology in the content of a file. Raises UsageError as `load` does."""
    content = _unpack(data, source)
    return read_sysfs(content, source) if isinstance(content, Tree) else _from_text(content, source)


def _open(source: str | None) -> Tree | str:
    """The root that a source is or holds, or else its text."""
    if source is None:
        return DirectoryTree("/", live=True)
    if is_folder(source):
        return DirectoryTree(root_below(source))
    return _unpack(_read(source), source)


def _unpack(data: bytes, source: str) -> Tree | str:
    from entrypoints.topology.archive import expand, is_tar, read_tar

    data = expand(data, source)
    if is_tar(data):
        return read_tar(data, source)
    _limit(data, MAX_JSON, source)
    return _decode(data)


def _read(source: str) -> bytes:
    try:
        if source == "-":
            return sys.stdin.buffer.read(MAX_TEXT + 1)
        with open(source, "rb") as stream:
            return stream.read(256 << 20)
    except (OSError, ValueError) as error:
        raise UsageError(getattr(error, "strerror", None) or str(error), where=source, hint=f"give {KINDS}") from None


def root_below(folder: str) -> str:
    """The folder that holds sys/: the given one, its only such child, or the parent when sys itself was given.

    Raises UsageError when there is none, or more than one.
    """
    if is_folder(f"{folder}/sys/devices") or is_folder(f"{folder}/sys/class") or is_folder(f"{folder}/sys/bus"):
        return folder
    if is_folder(f"{folder}/devices/system") or is_folder(f"{folder}/bus/pci"):
        return f"{folder}/.." if Path(folder).absolute().name == "sys" else folder
    try:
        below = sorted(str(entry) for entry in Path(folder).iterdir() if is_folder(f"{entry}/sys"))
    except OSError as error:
        raise UsageError(error.strerror or str(error), where=folder) from None
    if len(below) == 1:
        return below[0]
    problem = f"holds {len(below)} sysfs roots" if below else "holds no sys/ folder"
    raise UsageError(problem, where=folder, hint="give one root: the folder with sys/ and proc/ in it")


def _decode(data: bytes) -> str:
    """Text as shells write it: UTF-8 or, redirected by PowerShell, UTF-16, also where the byte order mark got lost."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").lstrip("\ufeff")
    start = data[:256]
    if len(start) > 8 and max(start[::2].count(0), start[1::2].count(0)) > len(start) // 3:
        return data.decode("utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be", "replace")
    return data.decode("utf-8-sig", "replace")


def _limit(text: str | bytes, mebibytes: int, source: str) -> None:
    if len(text) > mebibytes << 20:
        raise UsageError(f"is larger than {mebibytes} MiB, which no topology text is", where=source, hint=f"give {KINDS}")


def _from_text(text: str, source: str) -> Topology:
    start = text.lstrip("\0 \t\r\n")[:1]
    if start in ("{", "["):
        from entrypoints.topology.document import parse_document

        try:
            return parse_document(text, source)
        except UsageError as error:
            # A log may begin with "[rank0]", and a collector may have put the text that it got into JSON.
            try:
                return _from_foreign_text(text, source, start)
            except UsageError as other:
                looks_foreign = start == "[" and (_MATRIX.search(text) or "<system" in text)
                raise (other if looks_foreign else error) from None
    return _from_foreign_text(text, source, start)


def _from_foreign_text(text: str, source: str, start: str) -> Topology:
    if "&lt;system" in text and "<system" not in text:
        import html

        text = html.unescape(text)
    xml = re.search(r"<(?:system|topology|cpu)\b", text)
    matrix = _MATRIX.search(text)
    if xml and (start == "<" or matrix is None or xml.start() < matrix.start()):
        _limit(text, MAX_HWLOC if xml[0] == "<topology" else MAX_NCCL, source)
        if xml[0] == "<topology":
            from entrypoints.topology.hwloc_xml import parse_hwloc

            return parse_hwloc(text, source)
        from entrypoints.topology.nccl_xml import parse_nccl

        return parse_nccl(text, source)
    other = None if "nvidia-smi" in text else _OTHERS.search(text)
    if matrix and not (other and other[1]):
        _limit(text, MAX_MATRIX, source)
        from entrypoints.topology.smi_matrix import parse_matrix

        return parse_matrix(text, source)
    if other:
        problem = f"is a matrix of other devices than NVIDIA GPUs ({other[0]})"
        raise UsageError(problem, where=f"{source}:{text.count(chr(10), 0, other.start()) + 1}", hint="give `nvidia-smi topo -m` text")
    problem = "is empty" if not text.strip("\0 \t\r\n") else "is of no kind that is known"
    raise UsageError(problem, where=f"{source}:1", hint=f"give {KINDS}")
