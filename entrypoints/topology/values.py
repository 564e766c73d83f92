"""Small readers of kernel notation that never raise: unknown or torn is None."""

import re

from entrypoints.cpulist import parse_list
from entrypoints.topology.tree import Tree

#: No kernel numbers CPUs or nodes higher (x86 MAXSMP has 8,192), so a larger number is damage.
MAX_ID = 1 << 14

_BUS_ID = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})(?:\.([0-9a-f]))?", re.IGNORECASE)


def ids_of_list(text: str | None) -> tuple[int, ...] | None:
    """The ids of a kernel list such as "0-3,8"; None when it is missing or damaged."""
    if text is None:
        return None
    numbers = re.findall(r"\d+", text)
    if len(numbers) > MAX_ID or any(len(n) > 6 or int(n) >= MAX_ID for n in numbers):
        return None
    if text.count("-") > 64 and sum(int(b) - int(a) for a, b in re.findall(r"(\d+)-(\d+)", text)) > 8 * MAX_ID:
        return None
    try:
        return parse_list(text)
    except ValueError:
        return None


def ids_of_mask(text: str | None) -> tuple[int, ...] | None:
    """The ids of a hexadecimal mask "000000ff,ffffffff"; None when it is missing or damaged.

    Words have 32 bits, most significant first; hwloc writes a word of zeros as nothing ("0xff,,0x1").
    """
    if text is None or len(text) > MAX_ID or not re.fullmatch(r"(?:0x)?[0-9a-fA-F]+(?:,(?:0x)?[0-9a-fA-F]*)*", text.strip()):
        return None
    words = [int(word.removeprefix("0x") or "0", 16) for word in text.strip().split(",")]
    if len(words) > 1 and max(words) >> 32:
        return None
    value = sum(word << 32 * i for i, word in enumerate(reversed(words)))
    return tuple(i for i in range(value.bit_length()) if value >> i & 1) if value.bit_length() <= MAX_ID else None


def ids_in(tree: Tree, listed: str, masked: str) -> tuple[int, ...] | None:
    """A set that the kernel gives as a list and, on older kernels only, as a mask; None when both are missing or damaged."""
    ids = ids_of_list(tree.text(listed))
    return ids_of_mask(tree.text(masked)) if ids is None else ids


def integer(text: str | None, lowest: int = 0) -> int | None:
    """A decimal or 0x integer of at least `lowest`; the kernel's -1 for "unknown" is None."""
    if not text or len(text) > 20:
        return None
    try:
        value = int(text, 0) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        return None
    return value if value >= lowest else None


def bus_id(text: str | None) -> str | None:
    """A PCI bus id in the kernel's form: lower case, domain of at least four digits ("0000:82:00.0")."""
    match = _BUS_ID.fullmatch(text.strip()) if text and len(text) < 40 else None
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{int(bus, 16):02x}:{int(device, 16):02x}.{int(function or '0', 16):x}"


def bus_order(text: str | None) -> tuple[int, ...]:
    """Sort key of PCI bus ids by number, as CUDA_DEVICE_ORDER=PCI_BUS_ID does; unknown last."""
    pci = bus_id(text)
    return tuple(int(part, 16) for part in re.split("[:.]", pci)) if pci else (1 << 40,)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which mlx5_2 comes before mlx5_10."""
    return tuple((0, int(part[:30]), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", text) if part)
