"""Plan against evidence: one line that says whether every rank was where it should be, and every rail did its work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entrypoints.binding import BindMode
from entrypoints.cpulist import format_list, parse_list
from entrypoints.launch.evidence import name_ranks, rail
from entrypoints.placement.model import RankPlan

#: Share of a rank's own memory that must lie on its planned nodes; a few pages were shared before it was bound.
LOCAL_SHARE = 0.9
#: Below this a rank's memory says nothing about placement (an interpreter alone has some MiB).
ENOUGH_BYTES = 4 << 20
#: A port moves management packets even when idle; a rail that worked moved more.
CARRIED_BYTES = 1 << 20
#: As many bytes in the largest packets there are (IBA: a path MTU of 4,096), for ports that count packets alone.
CARRIED_PACKETS = CARRIED_BYTES // 4096


@dataclass(frozen=True)
class Verdict:
    """`text` is the line; `ok` is False when anything deviates; `deviations` are its sentences."""

    text: str
    ok: bool
    deviations: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "ok": self.ok, "deviations": list(self.deviations)}


def verdict(
    plans: Sequence[RankPlan], evidence: Sequence[Mapping[str, Any]], mode: BindMode | None = None, expect_traffic: bool = True
) -> Verdict:
    """Compare each rank's plan with its evidence. `expect_traffic` is False on one node, where rails carry nothing.

    What was not asked for (a BindMode without cpu) is no deviation; a rank without evidence is not on plan.
    """
    mode = mode or BindMode()
    wrong: dict[str, list[int]] = {}
    for plan, seen in zip(plans, evidence, strict=True):
        for sentence in _deviations(plan, seen, mode):
            wrong.setdefault(sentence, []).append(plan.local_rank)
    deviating = {rank for ranks in wrong.values() for rank in ranks}
    sentences = [f"{name_ranks(ranks)}: {sentence}" for sentence, ranks in wrong.items()]
    bound = mode.cpu or mode.mem
    text = f"{len(plans) - len(deviating)} of {len(plans)} ranks on plan" if bound else f"{len(plans)} ranks, not bound (--bind {mode})"
    rails = sorted({name for plan in plans if (name := rail(plan)) is not None})
    if rails and expect_traffic:
        idle = [name for name in rails if not _carried(name, evidence)]
        unknown = [name for name in idle if not any(seen.get("rail") == name and seen.get("traffic") for seen in evidence)]
        if len(unknown) == len(rails):
            text += ", rail traffic unknown (no port counters here)"
        else:
            text += f", {len(rails) - len(idle)} of {len(rails)} rails carried traffic"
            sentences += [f"rail {name} carried nothing" for name in idle if name not in unknown]
            sentences += [f"rail {name} has no port counters" for name in unknown]
    return Verdict("; ".join([text, *sentences]), not sentences, tuple(sentences))


def _deviations(plan: RankPlan, seen: Mapping[str, Any], mode: BindMode) -> list[str]:
    found = [_brief(sentence) for sentence in seen.get("degradations") or ()]
    cpus = _ids(seen.get("cpus"))
    if not cpus:
        return ["left no evidence: it ended before it could be looked at"]
    if mode.cpu and plan.cpus and cpus and not cpus <= set(plan.cpus) and not any(text.startswith("affinity") for text in found):
        found.append(f"may run on CPUs {format_list(cpus)}, planned {format_list(plan.cpus)}")
    if mode.cpu and plan.cpus and seen.get("threads_outside"):
        found.append(f"{seen['threads_outside']} of {seen['threads']} threads left the planned CPUs")
    nodes = {str(node) for node in plan.memory.nodes}
    memory = seen.get("memory_bytes") or {}
    total = sum(memory.values())
    if mode.mem and nodes and total >= ENOUGH_BYTES:
        share = sum(size for node, size in memory.items() if node in nodes) / total
        if share < LOCAL_SHARE:
            found.append(f"{share:.0%} of its memory is on node {','.join(sorted(nodes))}")
    return found


def _brief(degradation: str) -> str:
    """A degradation without its remedy, which was said when it happened."""
    return degradation.partition(";")[0]


def _ids(text: Any) -> set[int]:
    try:
        return set(parse_list(text)) if text else set()
    except ValueError:
        return set()


def _carried(name: str, evidence: Sequence[Mapping[str, Any]]) -> bool:
    moved: Mapping[str, int] = next((seen["traffic"] for seen in evidence if seen.get("rail") == name and seen.get("traffic")), {})
    return any(count >= (CARRIED_PACKETS if way.endswith("_packets") else CARRIED_BYTES) for way, count in moved.items())
