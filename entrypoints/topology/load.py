"""Find out by content what a topology source is, and read it."""

import os
import re
import sys

from entrypoints.errors import UsageError
from entrypoints.topology.model import Topology
from entrypoints.topology.tree import DirectoryTree, Tree, is_folder

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
    if source is None:
        return _sysfs(DirectoryTree("/", live=True), "live")
    if is_folder(source):
        return _sysfs(DirectoryTree(root_below(source)), source)
    return from_bytes(_read(source), source)


def _sysfs(tree: Tree, source: str) -> Topology:
    from entrypoints.topology.sysfs import read_sysfs

    return read_sysfs(tree, source)


def _read(source: str) -> bytes:
    try:
        if source == "-":
            return sys.stdin.buffer.read(MAX_TEXT + 1)
        with open(source, "rb") as stream:
            return stream.read(256 << 20)
    except (OSError, ValueError) as error:
        raise UsageError(getattr(error, "strerror", None) or str(error), where=source, hint=f"give {KINDS}") from None


def root_below(folder: str) -> str:
    """The folder that holds sys/: the given one, its only such child, or the parent when sys itself was given."""
    if is_folder(f"{folder}/sys/devices") or is_folder(f"{folder}/sys/class") or is_folder(f"{folder}/sys/bus"):
        return folder
    if is_folder(f"{folder}/devices/system") or is_folder(f"{folder}/bus/pci"):
        return os.path.join(folder, os.pardir) if os.path.basename(os.path.abspath(folder)) == "sys" else folder  # noqa: PTH100, PTH118, PTH119
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError as error:
        raise UsageError(error.strerror or str(error), where=folder) from None
    below = [f"{folder}/{name}" for name in names if is_folder(f"{folder}/{name}/sys")]
    if len(below) == 1:
        return below[0]
    what = f"holds {len(below)} sysfs roots" if below else "holds no sys/ folder"
    raise UsageError(what, where=folder, hint="give one root: the folder with sys/ and proc/ in it")


def from_bytes(data: bytes, source: str) -> Topology:
    from entrypoints.topology.archive import expand, is_tar, read_tar

    data = expand(data, source)
    if is_tar(data):
        return _sysfs(read_tar(data, source), source)
    _limit(data, MAX_JSON, source)
    return _from_text(_decode(data), source)


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
        from entrypoints.topology.read_document import parse_document

        try:
            return parse_document(text, source)
        except UsageError as error:
            # A log may begin with "[rank0]", and a collector may have put the text that it got into JSON.
            try:
                return _from_foreign_text(text, source, start)
            except UsageError as other:
                known = start == "[" and (_MATRIX.search(text) or "<system" in text)
                raise (other if known else error) from None
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
        what = f"is a matrix of other devices than NVIDIA GPUs ({other[0]})"
        raise UsageError(what, where=f"{source}:{text.count(chr(10), 0, other.start()) + 1}", hint="give `nvidia-smi topo -m` text")
    what = "is empty" if not text.strip("\0 \t\r\n") else "is of no kind that is known"
    raise UsageError(what, where=f"{source}:1", hint=f"give {KINDS}")
