"""The kernel's CPU and node list grammar ("0-3,8,16-31:2/4")."""

from collections.abc import Iterable


def parse_list(text: str) -> tuple[int, ...]:
    """Sorted ids of a kernel list; "" is the empty set. Raises ValueError on anything else.

    Grammar: Linux lib/bitmap.c, bitmap_parselist: N, A-B, A-B:used/group.
    """
    ids: set[int] = set()
    for part in text.strip().split(","):
        part = part.strip()
        if not part:
            continue
        span, _, stride = part.partition(":")
        low_text, dash, high_text = span.partition("-")
        low = int(low_text)
        high = int(high_text) if dash else low
        if low < 0 or high < low or high > 1 << 20:
            raise ValueError(f"bad range {part!r}")
        if stride:
            used, _, group = stride.partition("/")
            step, keep = int(group), int(used)
            if step < 1 or keep < 1:
                raise ValueError(f"bad stride {part!r}")
            ids.update(i for i in range(low, high + 1) if (i - low) % step < keep)
        else:
            ids.update(range(low, high + 1))
    return tuple(sorted(ids))


def format_list(ids: Iterable[int]) -> str:
    """The shortest kernel list of a set of ids: {0,1,2,8} -> "0-2,8"."""
    parts: list[str] = []
    start = previous = None
    for i in [*sorted(set(ids)), None]:
        if previous is not None and i == previous + 1:
            previous = i
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = i
    return ",".join(parts)
