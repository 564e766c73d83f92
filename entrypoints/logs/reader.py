"""Logs as bytes: files, folders, standard input; plain, gzip, xz, bzip2 or zstd, UTF-16; read once, in bounded memory."""

import codecs
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from entrypoints.errors import UsageError

#: One read. A line longer than this is handed on in pieces.
BLOCK = 1 << 20
_LOG_NAME = re.compile(r"\.(?:log|txt|out|err)(?:\.(?:gz|xz|bz2|zst))?\Z")
#: Modules that unpack a file that begins so. Python has zstd since 3.14; before, the zstandard package may be there.
_UNPACKERS = {b"\x1f\x8b": ("gzip",), b"\xfd7zXZ\0": ("lzma",), b"BZh": ("bz2",), b"\x28\xb5\x2f\xfd": ("compression.zstd", "zstandard")}


def log_files(paths: Iterable[str | Path]) -> Iterator[str]:
    """The files behind the paths: a folder stands for the logs in it, sorted by name with numbers as numbers."""
    for path in map(str, paths):
        folder = Path(path)
        if path == "-" or not folder.is_dir():
            yield path
            continue
        logs = [item for item in folder.rglob("*") if item.is_file() and _LOG_NAME.search(item.name)]
        if not logs:
            hint = "files named *.log, *.txt, *.out or *.err (also .gz, .xz, .bz2) are read"
            raise UsageError("no log file in this folder", where=path, hint=hint)
        # rank2 comes before rank10: every second part is a number.
        yield from map(str, sorted(logs, key=lambda log: [int(p) if i % 2 else p for i, p in enumerate(re.split(r"(\d+)", str(log)))]))


def open_log(path: str | Path) -> IO[bytes]:
    """A binary stream of the text of a log; `-` is standard input. Raises UsageError when it cannot be read."""
    try:
        raw: Any = sys.stdin.buffer if str(path) == "-" else open(path, "rb", buffering=BLOCK)  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    stream = raw if hasattr(raw, "peek") else io.BufferedReader(raw, BLOCK)
    # The first bytes tell how it is packed, and not the name.
    head = stream.peek(8)[:8]
    for magic, modules in _UNPACKERS.items():
        if head.startswith(magic):
            return _unpacked(stream, modules, str(path))
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # What PowerShell's `>` writes.
        return cast(IO[bytes], codecs.EncodedFile(stream, "utf-8", "utf-16", errors="replace"))
    if len(head) == 8 and all(head[::2]) and not any(head[1::2]):
        return cast(IO[bytes], codecs.EncodedFile(stream, "utf-8", "utf-16-le", errors="replace"))
    return cast(IO[bytes], stream)


def _unpacked(stream: Any, modules: Sequence[str], name: str) -> IO[bytes]:
    for module in modules:
        try:
            return cast(IO[bytes], import_module(module).open(stream))
        except ModuleNotFoundError:
            continue
    packer = modules[0].rpartition(".")[2]
    hint = "unpack it first, or pipe it in: zstdcat LOG | epbox results -"
    raise UsageError(f"{packer}-compressed, and this Python has no {packer}", where=name, hint=hint)


def blocks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """The stream in blocks that end at line ends; a line longer than a block is cut."""
    rest = b""
    while True:
        try:
            data = stream.read(BLOCK)
        except Exception as error:  # gzip, lzma and zstd raise errors of their own
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


def ends(path: str | Path, head: int, tail: int) -> str:
    """The text of a log; of a longer one its first `head` and last `tail` bytes, and between them how many are left out.

    Raises UsageError when it cannot be read.
    """
    first = last = b""
    left_out = 0
    with open_log(path) as stream:
        for block in blocks(stream, str(path)):
            room = head - len(first)
            first, last = first + block[:room], last + block[room:]
            left_out += max(0, len(last) - tail)
            last = last[-tail:]
    notice = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
    return (first + notice + last).decode("utf-8", "replace")


def hits(
    stream: IO[bytes], wanted: re.Pattern[bytes], name: str, take: Callable[[bytes, int], tuple[int, int]]
) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line without its end) of each line in which `wanted` is found and that `take` leaves.

    `take` takes whole lines of a block from an offset: (offset after them, number of lines), or (the offset, 0).
    Lines without a hit are never split off, which is what makes a log of hundreds of megabytes cheap.
    """
    number = 1
    for block in blocks(stream, name):
        counted = position = 0
        find = wanted.search
        match = find(block)
        while match:
            start = block.rfind(b"\n", position, match.start()) + 1 or position
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
