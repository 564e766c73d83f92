"""Tarballs read in memory: nothing is ever written, so no member can reach outside."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator

from entrypoints.errors import UsageError
from entrypoints.topology.tree import MAX_FILE, MemoryTree

#: The largest snapshot known unpacks to 30 MB, and 1,024 CPUs would to 64; beyond this it is no snapshot but a bomb.
MAX_UNPACKED = 128 << 20
#: What is no tar holds text, and no text is larger.
MAX_PLAIN = 8 << 20
_CHUNK = 1 << 20
#: A larger dictionary than `xz -9` uses is another kind of bomb.
_XZ_MEMORY = 256 << 20


def expand(data: bytes, source: str) -> bytes:
    """The decompressed content of gzip, bzip2 or xz data; other data as it is.

    A stream that ends early gives what came before its end. Raises UsageError for a bomb and for what cannot be decompressed.
    """
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        raise UsageError(
            "is zstd-compressed, which the Python standard library cannot read", where=source, hint="recompress it: zstd -dc | gzip"
        )
    if data.startswith(b"PK\3\4"):
        raise UsageError("is a zip archive, which keeps no symbolic links", where=source, hint="make a tarball")
    if not data.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
        return data
    expanded = bytearray()
    try:
        for chunk in _decompressed(data):
            expanded += chunk
            limit = MAX_UNPACKED if is_tar(bytes(expanded[: tarfile.BLOCKSIZE])) else MAX_PLAIN
            if len(expanded) > limit:
                raise UsageError(f"unpacks to more than {limit >> 20} MiB", where=source, hint="give a tarball of sys/ and proc/ only")
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        if not expanded:
            raise UsageError(f"cannot be decompressed ({error})", where=source) from None
    return bytes(expanded)


def _decompressed(data: bytes) -> Iterator[bytes]:
    """The content piece by piece, so that neither a bomb nor a torn end costs more than one piece."""
    if data.startswith(b"\x1f\x8b"):
        stream = gzip.GzipFile(fileobj=io.BytesIO(data))
        while piece := stream.read1(_CHUNK):
            yield piece
        return
    decompressor = bz2.BZ2Decompressor() if data.startswith(b"BZh") else lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
    piece = decompressor.decompress(data, _CHUNK)
    while piece:
        yield piece
        piece = b"" if decompressor.eof else decompressor.decompress(b"", _CHUNK)


def is_tar(data: bytes) -> bool:
    """True for POSIX and GNU tar, and for an old header whose checksum holds."""
    if data[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "replace")
    except tarfile.TarError:
        return False
    return True


def read_tar(data: bytes, source: str) -> MemoryTree:
    """The sysfs root inside a tar, whatever its top folder is called. Raises UsageError when there is none."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    for member in _members(data):
        path = _clean(member.name)
        if not path:
            continue
        if member.isdir():
            folders.add(path)
        elif member.issym():
            links[path] = member.linkname
        elif member.islnk() and _clean(member.linkname) in files:
            files[path] = files[_clean(member.linkname)]
        elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            files[path] = data[member.offset_data : member.offset_data + min(member.size, MAX_FILE)]
    top = _prefix((*folders, *files, *links), source)
    top += "/" if top else ""
    return MemoryTree(
        {path.removeprefix(top): content for path, content in files.items() if path.startswith(top)},
        {path.removeprefix(top): target for path, target in links.items() if path.startswith(top)},
        {path.removeprefix(top) for path in folders if path.startswith(top)},
    )


def _members(data: bytes) -> Iterator[tarfile.TarInfo]:
    """The members up to the end mark, to damage, or to the end of the data."""
    end = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="replace") as tar:
            while (member := tar.next()) is not None:
                # A header with a negative size sends older Pythons back to where they were, for ever (CVE-2025-8194).
                if member.size < 0 or member.offset_data <= end:
                    return
                end = member.offset_data
                yield member
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        return


def _clean(path: str) -> str:
    """The path without leading and "." parts; "" for one that climbs out."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "" if ".." in parts or len(parts) > 100 else "/".join(parts)


def _prefix(paths: Iterable[str], source: str) -> str:
    """The shortest folder that holds a sys/ with what a plan reads."""
    matches = (re.match(r"(?:(.*?)/)?sys/(?:devices|bus|class)(?:/|$)", path) for path in paths)
    prefixes = [match[1] or "" for match in matches if match]
    if not prefixes:
        raise UsageError("is a tarball without a sys/ folder", where=source, hint="make it with `snapshot`, or with tar of sys/ and proc/")
    return min(prefixes, key=len)
