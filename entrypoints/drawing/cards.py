"""The cards of a drawing: a GPU, an HCA with its ports, and the CPUs of a NUMA node with the ranks on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from entrypoints.cpulist import format_list
from entrypoints.drawing.boxes import Anchors, Box, rectangle, text
from entrypoints.placement.model import Plan, RankPlan
from entrypoints.topology.model import Gpu, Hca, NumaNode, Port

#: Fill of a rank's badge and line: dark enough for white text, light enough for a dark page.
COLOURS = ("#0f6fb8", "#c2410c", "#15803d", "#a21caf", "#a16207", "#0e7490", "#be123c", "#5b54d6")
CARD = 148.0
LINE = 15.0


@dataclass(frozen=True)
class Assignment:
    """The plan, looked up from the devices' side."""

    by_gpu: Mapping[int, RankPlan] = field(default_factory=dict)
    by_hca: Mapping[str, list[RankPlan]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    ranks: Sequence[RankPlan] = ()

    @staticmethod
    def of(plan: Plan | None, gpus: Sequence[Gpu]) -> "Assignment":
        """An empty assignment when there is no plan."""
        if plan is None:
            return Assignment()
        index = {gpu.pci: gpu.index for gpu in gpus if gpu.pci}
        by_gpu: dict[int, RankPlan] = {}
        by_hca: dict[str, list[RankPlan]] = {}
        for rank in plan.ranks:
            number = rank.gpu_index if rank.gpu_index is not None else index.get(rank.gpu_pci or "")
            if number is not None:
                by_gpu.setdefault(number, rank)
            if rank.hca:
                by_hca.setdefault(rank.hca, []).append(rank)
        return Assignment(by_gpu, by_hca, dict(plan.excluded), plan.ranks)


def colour(rank: int) -> str:
    return COLOURS[rank % len(COLOURS)]


def badge(right: float, y: float, words: str, rank: int, pad: float = 12) -> tuple[str, float]:
    """A pill that ends at `right`, and its width."""
    width = 6.9 * len(words) + pad
    pill = f'<rect x="{right - width:g}" y="{y:g}" width="{width:g}" height="16" rx="8" fill="{colour(rank)}"/>'
    label = f'<text x="{right - width / 2:g}" y="{y + 12:g}" class="pill" text-anchor="middle">{escape(words)}</text>'
    return pill + label, width


def gpu_card(gpu: Gpu, assignment: Assignment, width: float) -> Box:
    """Index, bus id, name; with a plan its rank, the HCA it got and the level to it."""
    rank = assignment.by_gpu.get(gpu.index)
    lines = [gpu.pci or "bus id unknown"]
    if gpu.name:
        lines.append(gpu.name.removeprefix("NVIDIA "))
    if rank and rank.hca:
        lines.append(f"{rank.path or 'level unknown'} to {rank.hca}:{rank.port or 1}")
    elif rank and assignment.by_hca:
        lines.append("no HCA")
    height = 24 + LINE * len(lines)

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        anchors["gpu", str(gpu.index)] = (x + width / 2, y, height)
        parts = [rectangle(x, y, width, height, "card gpu")]
        parts.append(text(x + 8, y + 17, f"GPU {gpu.index}", "name"))
        if rank:
            parts.append(badge(x + width - 6, y + 5, f"rank {rank.local_rank}", rank.local_rank)[0])
        for i, line in enumerate(lines):
            parts.append(text(x + 8, y + 32 + LINE * i, line, "mono" if i == 0 and gpu.pci else "small", room=width - 14, size=6.8))
        return parts

    return Box(width, height, paint)


def hca_card(hca: Hca, assignment: Assignment, width: float) -> Box:
    """Name, bus id, one line a port with state and rate; with a plan the ranks on it, or why it is left out."""
    ranks = assignment.by_hca.get(hca.id, [])
    reason = assignment.excluded.get(hca.id) or assignment.excluded.get(hca.label)
    lines = [("mono", hca.pci or (hca.label if hca.label != hca.id else "bus id unknown"))]
    if hca.physical_function:
        lines.append(("small", f"VF of {hca.physical_function}"))
    lines += [("port", port_line(port, len(hca.ports) > 1)) for port in hca.ports]
    if not hca.ports:
        lines.append(("small", "port state unknown"))
    if reason and not ranks:
        lines += [("small why", line) for line in wrap(f"not used: {reason}", int((width - 14) / 6.6), 3)]
    many = len(ranks) > 2
    height = 24 + LINE * (len(lines) + (1 if many else 0))
    active = any(port.state == "ACTIVE" for port in hca.ports)
    style = "hca" if active or not hca.ports else "down"

    def paint(x: float, y: float, anchors: Anchors) -> list[str]:
        anchors["hca", hca.id] = (x + width / 2, y, height)
        dim = ' opacity="0.62"' if assignment.ranks and not ranks else ""
        parts = [f"<g{dim}>", rectangle(x, y, width, height, f"card {style}")]
        parts.append(text(x + 8, y + 17, hca.id, "name", room=width - 14, size=7.4))
        right = x + width - 6
        for rank in [] if many else reversed(ranks):
            words = f"rank {rank.local_rank}" if len(ranks) == 1 else str(rank.local_rank)
            pill, used = badge(right, y + 5, words, rank.local_rank)
            parts.append(pill)
            right -= used + 3
        for i, (kind, line) in enumerate(lines):
            base = y + 32 + LINE * i
            if kind == "port":
                up = "ACTIVE" in line
                parts.append(f'<circle cx="{x + 12:g}" cy="{base - 4:g}" r="3.5" class="{"up" if up else "off"}"/>')
                parts.append(text(x + 20, base, line, "small", room=width - 26, size=6.8))
            else:
                parts.append(text(x + 8, base, line, kind, room=width - 14, size=6.8))
        if many:
            parts += _crowd(ranks, x + 6, x + width - 6, y + height - 19)
        return [*parts, "</g>"]

    return Box(width, height, paint)


def _crowd(ranks: Sequence[RankPlan], left: float, right: float, y: float) -> list[str]:
    """A pill for each of many ranks, or one for all where they do not fit."""
    words = [str(rank.local_rank) for rank in ranks]
    if sum(6.9 * len(word) + 9 for word in words) > right - left:
        return [badge(right, y, f"{len(ranks)} ranks: {format_list(rank.local_rank for rank in ranks)}", ranks[0].local_rank)[0]]
    parts = []
    for rank, word in zip(reversed(ranks), reversed(words), strict=True):
        pill, used = badge(right, y, word, rank.local_rank, 8)
        parts.append(pill)
        right -= used + 1
    return parts


def wrap(words: str, room: int, most: int) -> list[str]:
    """Up to `most` lines of `room` characters, the last one with what is left over (it is cut when it is drawn)."""
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > room and len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def port_line(port: Port, numbered: bool) -> str:
    """State, rate and link layer of a port in a few words."""
    rate = "" if port.rate_gbps is None else f" {port.rate_gbps:g}G"
    layer = {"InfiniBand": " IB", "Ethernet": " Eth"}.get(port.link_layer or "", "")
    return f"{f'{port.number}: ' if numbered else ''}{port.state or 'state unknown'}{rate}{layer}"


def card_width(gpus: Sequence[Gpu], hcas: Sequence[Hca]) -> float:
    """One width for all cards, so that the longest HCA name fits beside a badge."""
    return max(CARD, *(7.4 * min(len(hca.id), 26) + 72 for hca in hcas), 0) if gpus or hcas else CARD


def cpu_strip(node: NumaNode, assignment: Assignment, width: float) -> Box | None:
    """The node's CPUs as a bar, a part for each rank in proportion to its CPUs; None for a node without CPUs."""
    if not node.cpus:
        return None
    mine = set(node.cpus)
    parts = [(rank, mine.intersection(rank.cpus)) for rank in assignment.ranks if mine.intersection(rank.cpus)]
    free = mine.difference(*(cpus for _, cpus in parts)) if parts else set()

    def paint(x: float, y: float, _anchors: Anchors) -> list[str]:
        lines = [rectangle(x, y, width, 20, "cpus", 4)]
        if not parts:
            return [*lines, text(x + 8, y + 14, f"{len(mine)} CPUs: {format_list(mine)}", "small", room=width - 12, size=6.7)]
        scale = width / sum(len(cpus) for cpus in [*(cpus for _, cpus in parts), free])
        at = x
        for rank, cpus in parts:
            wide = len(cpus) * scale
            words = f"rank {rank.local_rank}: {format_list(cpus)}"
            lines.append(
                f'<rect x="{at + 1:g}" y="{y + 1:g}" width="{max(wide - 2, 1):g}" height="18" rx="3" fill="{colour(rank.local_rank)}"/>'
            )
            if wide > 14:
                shown = words if 6.9 * len(words) <= wide - 8 else words.removeprefix("rank ")
                lines.append(text(at + 6, y + 14, shown, "pill left", room=wide - 8, size=6.9))
            at += wide
        if free and len(free) * scale > 60:
            lines.append(text(at + 6, y + 14, f"{len(free)} free", "small", room=len(free) * scale - 8))
        return lines

    return Box(width, 20, paint)
