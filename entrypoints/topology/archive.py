"""Tarballs read in memory: nothing is ever written, so no member can reach outside."""

import zlib
from typing import Protocol

from entrypoints.errors import UsageError
from entrypoints.topology.tree import MAX_FILE, MemoryTree

#: The largest snapshot known unpacks to 30 MB, and 1,024 CPUs would to 64; beyond this it is no snapshot but a bomb.
MAX_UNPACKED = 128 << 20
#: What is no tar holds text, and no text is larger.
MAX_PLAIN = 8 << 20
_CHUNK = 1 << 20
BLOCK = 512


def expand(data: bytes, source: str) -> bytes:
    """The decompressed content of gzip, bzip2 or xz data; other data as it is.

    Stops at the end-of-archive mark of a tar. A stream that ends early gives what came before its end.
    """
    if data[:2] == b"\x1f\x8b":
        return _inflate(_Gzip(), data, source)
    if data[:3] == b"BZh":
        import bz2

        return _inflate(bz2.BZ2Decompressor(), data, source)
    if data[:6] == b"\xfd7zXZ\0":
        import lzma

        return _inflate(lzma.LZMADecompressor(memlimit=256 << 20), data, source)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        raise UsageError(
            "is zstd-compressed, which the Python standard library cannot read", where=source, hint="recompress it: zstd -dc | gzip"
        )
    if data[:4] == b"PK\3\4":
        raise UsageError("is a zip archive, which keeps no symbolic links", where=source, hint="make a tarball")
    return data


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib with the interface that bz2 and lzma have."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max(max_length, 0))


def _inflate(stream: _Decompressor, data: bytes, source: str) -> bytes:
    parts: list[bytes] = []
    size = zeros = start = 0
    while not stream.eof and zeros <= 2 * _CHUNK:
        chunk = b""
        if stream.needs_input:
            if start >= len(data):
                break
            chunk = data[start : start + (_CHUNK >> 4)]
            start += len(chunk)
        try:
            part = stream.decompress(chunk, _CHUNK)
        except Exception as error:  # zlib.error, lzma.LZMAError, OSError, EOFError: each library has its own
            if size:
                break
            raise UsageError(f"cannot be decompressed ({error})", where=source) from None
        parts.append(part)
        size += len(part)
        zeros = 0 if part.strip(b"\0") else zeros + len(part)
        limit = MAX_UNPACKED if is_tar(parts[0]) else MAX_PLAIN
        if size > limit:
            raise UsageError(f"unpacks to more than {limit >> 20} MiB", where=source, hint="give a tarball of sys/ and proc/ only")
    return b"".join(parts)


def is_tar(data: bytes) -> bool:
    """True for POSIX and GNU tar, and for an old header whose checksum holds."""
    return data[257:262] == b"ustar" or (len(data) >= BLOCK and data[:1].isalnum() and _checksum(data[:BLOCK]))


def _checksum(header: bytes) -> bool:
    return _number(header[148:156]) == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _number(field: bytes) -> int:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        return -1


def read_tar(data: bytes, source: str) -> MemoryTree:
    """The sysfs root inside a tar, whatever its top folder is called. Raises UsageError when there is none."""
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    for path, kind, content, target in _members(data):
        if kind == b"5":
            folders.add(path)
        elif kind == b"2":
            links[path] = target
        elif kind == b"1":
            known = files.get(_clean(target))
            if known is not None:
                files[path] = known
        elif kind in (b"0", b"\0", b"7"):
            files[path] = content
    prefix = _prefix((*folders, *files, *links), source)
    if prefix:
        cut = len(prefix) + 1
        files = {path[cut:]: content for path, content in files.items() if path.startswith(prefix + "/")}
        links = {path[cut:]: target for path, target in links.items() if path.startswith(prefix + "/")}
        folders = {path[cut:] for path in folders if path.startswith(prefix + "/")}
    return MemoryTree(files, links, folders)


def _members(data: bytes) -> list[tuple[str, bytes, bytes, str]]:
    """(path, type, content, link target) of each member; ends at the end mark, at damage or at the end of the data."""
    members: list[tuple[str, bytes, bytes, str]] = []
    offset = 0
    long_name: str | None = None
    long_link: str | None = None
    while offset + BLOCK <= len(data):
        header = data[offset : offset + BLOCK]
        if not header.strip(b"\0") or not _checksum(header):
            break
        size = _number(header[124:136])
        kind = header[156:157]
        if size < 0:
            break
        offset += BLOCK
        has_body = kind not in (b"1", b"2", b"3", b"4", b"5", b"6")
        body = data[offset : offset + min(size, MAX_FILE)] if has_body else b""
        if has_body:
            offset += (size + BLOCK - 1) // BLOCK * BLOCK
        if kind == b"L":
            long_name = _string(body)
        elif kind == b"K":
            long_link = _string(body)
        elif kind == b"x":
            records = _pax(body)
            long_name = records.get("path", long_name)
            long_link = records.get("linkpath", long_link)
        elif kind != b"g":
            name = _string(header[:100])
            if header[257:263] == b"ustar\0" and header[345]:
                name = f"{_string(header[345:500])}/{name}"
            path = _clean(long_name if long_name is not None else name)
            if path:
                members.append((path, kind, body, long_link if long_link is not None else _string(header[157:257])))
            long_name = long_link = None
    return members


def _string(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _pax(body: bytes) -> dict[str, str]:
    records: dict[str, str] = {}
    offset = 0
    while offset < len(body):
        length, _, _ = body[offset : offset + 10].partition(b" ")
        if not length.isdigit() or int(length) < 5:
            break
        record = body[offset + len(length) + 1 : offset + int(length) - 1]
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        offset += int(length)
    return records


def _clean(path: str) -> str:
    """The path without leading and "." parts; "" for one that climbs out."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "" if ".." in parts or len(parts) > 100 else "/".join(parts)


def _prefix(paths: tuple[str, ...], source: str) -> str:
    """The shortest folder that holds a sys/ with what a plan reads."""
    best: str | None = None
    for path in paths:
        parts = path.split("/")
        for i, part in enumerate(parts[:-1]):
            if part == "sys" and parts[i + 1] in ("devices", "bus", "class"):
                prefix = "/".join(parts[:i])
                if best is None or len(prefix) < len(best):
                    best = prefix
                break
    if best is None:
        raise UsageError("is a tarball without a sys/ folder", where=source, hint="make it with `snapshot`, or with tar of sys/ and proc/")
    return best
