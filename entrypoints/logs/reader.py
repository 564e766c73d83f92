"""Bytes of a log, wherever it lies: plain, gzip, xz, bzip2 or zstd, UTF-16, standard input; read once, in bounded memory."""

import codecs
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from entrypoints.errors import UsageError

#: One read. A line longer than this is handed on in pieces.
BLOCK = 1 << 20


def open_log(path: str | Path) -> IO[bytes]:
    """A binary stream of the text of a log; `-` is standard input. Raises UsageError when it cannot be read."""
    try:
        raw: Any = sys.stdin.buffer if str(path) == "-" else open(path, "rb", buffering=BLOCK)  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    buffered = raw if hasattr(raw, "peek") else io.BufferedReader(raw, BLOCK)
    return _decoded(buffered, buffered.peek(8)[:8], str(path))


def _decoded(stream: Any, magic: bytes, name: str) -> IO[bytes]:
    """The stream behind its compression, told by its first bytes and not by its name."""
    if magic.startswith(b"\x1f\x8b"):
        import gzip

        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if magic.startswith(b"\xfd7zXZ\0"):
        import lzma

        return cast(IO[bytes], lzma.LZMAFile(stream))
    if magic.startswith(b"BZh"):
        import bz2

        return cast(IO[bytes], bz2.BZ2File(stream))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(stream, name)
    if magic.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # What PowerShell's `>` writes.
        return cast(IO[bytes], codecs.EncodedFile(stream, "utf-8", "utf-16", errors="replace"))
    if len(magic) == 8 and all(magic[::2]) and not any(magic[1::2]):
        return cast(IO[bytes], codecs.EncodedFile(stream, "utf-8", "utf-16-le", errors="replace"))
    return cast(IO[bytes], stream)


def _zstd(stream: Any, name: str) -> IO[bytes]:
    """Python 3.14 has zstd in its library; before, the zstandard package may be there."""
    from importlib import import_module

    for module, attribute in (("compression.zstd", "ZstdFile"), ("zstandard", "open")):
        try:
            return cast(IO[bytes], getattr(import_module(module), attribute)(stream))
        except ModuleNotFoundError:
            continue
    raise UsageError("zstd-compressed, and this Python has no zstd", where=name, hint=f"pipe it in: zstdcat {name} | epbox results -")


def blocks(stream: IO[bytes], name: str = "log") -> Iterator[bytes]:
    """The stream in blocks that end at line ends; a line longer than a block is cut."""
    rest = b""
    while True:
        try:
            data = stream.read(BLOCK)
        except (OSError, EOFError, ValueError) as error:
            raise UsageError(f"damaged: {error}", where=name, hint="copy the file again") from error
        except Exception as error:  # lzma and zstd raise errors of their own
            raise UsageError(f"damaged: {error}", where=name, hint="copy the file again") from error
        if not data:
            break
        cut = data.rfind(b"\n") + 1
        if cut:
            yield rest + data[:cut]
            rest = data[cut:]
        elif len(rest) + len(data) > BLOCK:
            yield rest + data
            rest = b""
        else:
            rest += data
    if rest:
        yield rest


#: Takes whole lines of a block from an offset: (offset after them, number of lines), or (the offset, 0).
Take = Callable[[bytes, int], tuple[int, int]]


def hits(stream: IO[bytes], wanted: re.Pattern[bytes], name: str = "log", take: Take | None = None) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line without its end) of each line in which `wanted` is found and that `take` leaves.

    Lines without a hit are never split off, which is what makes a log of hundreds of megabytes cheap.
    """
    number = 1
    for block in blocks(stream, name):
        counted = position = 0
        find = wanted.search
        match = find(block)
        while match:
            start = block.rfind(b"\n", position, match.start()) + 1 or position
            if take is not None:
                position, lines = take(block, start)
                if lines:
                    number += block.count(b"\n", counted, start) + lines
                    counted = position
                    match = find(block, position)
                    continue
            end = block.find(b"\n", match.end() - 1)
            end = len(block) if end < 0 else end
            number += block.count(b"\n", counted, start)
            counted = start
            yield number, block[start:end]
            position = end + 1
            match = find(block, position)
        number += block.count(b"\n", counted)
