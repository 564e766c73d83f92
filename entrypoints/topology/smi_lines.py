"""The lines of a pasted matrix without what was put around them: colour codes, quotes, log prefixes, table rules, wrapping."""

import html
import re
from collections.abc import Iterator

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|\[[0-9;]{1,5}m")
_TAG = re.compile(r"</?(?:pre|code|samp|table|tbody|thead|tr|td|th|p|br|div|span|b|strong|details|summary)\b[^<>]{0,200}>", re.IGNORECASE)
#: Table rules become tabs; Markdown's emphasis, quotation marks and characters without width go.
_MARKS = {**dict.fromkeys(map(ord, "|│┃║"), "\t"), **dict.fromkeys(map(ord, '`*"\0\u200b\u200c\u200d\u2060\ufeff'), None)}
_DEVICE = re.compile(r"(?:^|(?<=[\s:>$#=\])]))(?:GPU|NIC)\[?\d")
_MAX_PREFIX = 200
#: Cells that a narrow terminal printed without a space between them, and column names likewise.
_LEVEL = r"NODE|SYS|PHB|PXB|PIX|SOC|NV\d{1,2}|X"
_GLUED = re.compile(rf"(?:{_LEVEL}){{2,40}}|(?:(?:GPU|NIC)\d{{1,4}}){{2,40}}|(?:mlx\d_\d{{1,3}}){{2,40}}")
_PART = re.compile(rf"{_LEVEL}|(?:GPU|NIC)\d{{1,4}}|mlx\d_\d{{1,3}}")

#: 576 columns, the most GPUs that one NVLink domain can have, fit in half of this.
MAX_LINE = 8000
#: No terminal that breaks a matrix is narrower.
MIN_WIDTH = 40


def clean_lines(text: str, comments: bool = False) -> Iterator[tuple[int, str]]:
    """(line number, line) without decoration; a line that holds escaped line ends is several of one number.

    Comment lines ("#", "//") count as blank, or with `comments` as what they hold.
    """
    for number, raw in enumerate(text.splitlines(), 1):
        for part in _unescape(raw[: 4 * MAX_LINE]):
            line = _ANSI.sub("", part[:MAX_LINE]).translate(_MARKS)
            if "<" in line or "&" in line:
                line = html.unescape(_TAG.sub("\t", line))
            line = line.strip().lstrip("> \t+-")
            if line.startswith(("#", "//")):
                line = line.lstrip("#/ \t") if comments else ""
            yield number, line[_prefix(line) :]


def _prefix(line: str) -> int:
    """The length of what pdsh, clush, srun -l, kubectl, docker compose, grep -n, cat -n, a logger or a person put before a device.

    That ends with a colon or the like, or consists of marked words (times, "[rank0]", "INFO"), or fills a table's first field.
    """
    device = _DEVICE.search(line, 0, _MAX_PREFIX)
    if device is None or not device.start():
        return 0
    before = line[: device.start()]
    words = before.split()
    field = before.endswith("\t") and len(words) == 1
    marked = all(word.isupper() or not word.isalpha() for word in words)
    return device.start() if len(words) <= 8 and (field or marked or before.rstrip()[-1:] in tuple(":>$#=")) else 0


def _unescape(line: str) -> list[str]:
    r"""The lines in a line of JSON or source code, where "\n" and "\t" are two characters each."""
    if "\\t" not in line and "\\n" not in line:
        return [line]
    return line.replace("\\r", "").replace("\\t", "\t").replace("\\u001b", "\x1b").rstrip("\\,").split("\\n")


def words_of(line: str) -> list[str]:
    """The words of a line; cells and names that were printed without a space between them are taken apart."""
    words: list[str] = []
    for word in line.split():
        words += _PART.findall(word) if _GLUED.fullmatch(word) else [word]
    return words


def unwrapped(text: str) -> str | None:
    """The text with lines joined that a terminal broke in the middle of words; None when no width shows that it did.

    A broken line is exactly as wide as the terminal, and nothing is wider.
    """
    lines = [line.rstrip("\r\n").expandtabs(8) for line in text.splitlines()]
    width = max((len(line) for line in lines), default=0)
    if not MIN_WIDTH <= width <= MAX_LINE or sum(len(line) == width for line in lines) < 2:
        return None
    joined: list[str] = []
    opened = False
    for line in lines:
        if opened:
            joined[-1] += line
        else:
            joined.append(line)
        opened = len(line) == width
    return "\n".join(joined)
