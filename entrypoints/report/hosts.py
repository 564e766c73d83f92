"""The sections about the hosts: drawing and rails, evidence rank by rank, doctor, environment, logs."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from entrypoints.cpulist import format_list, parse_list
from entrypoints.report.html import Safe, number, section, soft, table, tagged
from entrypoints.report.load import Material

MOST_RANKS, MOST_FINDINGS = 64, 40
#: Ranks on plan, and rails, that stand for all of a larger world.
FEW = 16
#: Groups of nodes that say the same, and ranges of node ranks in one of them.
MOST_GROUPS, MOST_RANGES = 16, 8


def drawing(material: Material) -> str:
    """The topology with the plan on it; as an image, so that its style stays its own."""
    nodes = material.document["nodes"]
    parts = []
    if material.topology is not None:
        from entrypoints.drawing.topology import draw

        svg = draw(material.topology, plan_of(nodes[0]["plan"]) if nodes else None)
        data = b64encode(svg.encode()).decode()
        parts.append(
            f'<div class="scroll drawing"><img alt="topology of node 0 with its plan" src="data:image/svg+xml;base64,{data}"></div>'
        )
    rails = [(i, j) for i, node in enumerate(nodes) for j, rank in enumerate(node["ranks"]) if rank["evidence"].get("rail")]
    count, more = len(rails), ""
    if count > MOST_RANKS:
        rails.sort(key=lambda place: _sent(nodes[place[0]]["ranks"][place[1]])[1])
        rails, more = rails[:FEW], f"{count} rails; the {FEW} that sent least."
    rows: list[list[Any]] = []
    for i, j in rails:
        rank = nodes[i]["ranks"][j]
        moved = rank["evidence"].get("traffic") or {}
        unit, _ = _sent(rank)
        at = f"{material.origin}#nodes[{i}].ranks[{j}].evidence.traffic."
        sent, received = (number(moved.get(key), at + key, 0) for key in (unit, unit.replace("xmit", "rcv")))
        kind = unit.rpartition("_")[2] if moved else "no counter"
        rows.append([nodes[i]["node_rank"], rank["rank"], rank["evidence"]["rail"], sent, received, kind])
    head = ["node", "rank", "rail", "sent", "received", "unit"]
    traffic = f"<h3>Traffic per rail during the run</h3>{soft(more)}" + table(head, rows, (0, 1, 3, 4)) if rows else ""
    if nodes and not rows:
        traffic = soft("No rail was planned or seen: this run used no HCA.")
    return section("topology", "Topology, plan and rails", *parts, traffic)


def _sent(rank: dict[str, Any]) -> tuple[str, float]:
    """(counter, its value) of what a rank's rail sent; packets where no bytes were counted, and 0 without a counter."""
    moved = rank["evidence"].get("traffic") or {}
    unit = "xmit_bytes" if "xmit_bytes" in moved else "xmit_packets"
    return unit, float(moved.get(unit) or 0)


def _faults(rank: dict[str, Any]) -> list[str]:
    """Why a rank is not simply on plan, in words; empty when it is. One that a signal ended has no exit code."""
    outside = rank["evidence"].get("threads_outside")
    end = f"signal {rank['signal']}" if rank.get("signal") else f"exit {rank['exit_code']}"
    return [
        *([end] if rank["exit_code"] != 0 else []),
        *map(str, rank["evidence"].get("degradations") or []),
        *([f"{outside} thread{'s' * (outside != 1)} outside"] if outside else []),
    ]


def plan_of(value: dict[str, Any]) -> Any:
    """The plan again from its epbox.plan/1."""
    from entrypoints.placement.model import MemoryPolicy, Plan, RankPlan

    ranks = []
    for rank in value["ranks"]:
        gpu, memory = rank.get("gpu") or {}, rank.get("memory") or {}
        policy = MemoryPolicy(memory.get("policy", "default"), tuple(memory.get("nodes", ())))
        device = (gpu.get("index"), gpu.get("pci"), rank.get("hca"), rank.get("hca_pci"), rank.get("port"))
        place = (rank.get("path"), rank.get("numa_node"), tuple(parse_list(rank.get("cpus") or "")))
        ranks.append(RankPlan(rank["local_rank"], *device, *place, policy, {}, rank.get("reason", "")))
    excluded = tuple((item["hca"], item["reason"]) for item in value.get("excluded", ()))
    return Plan(value.get("source", ""), value.get("host", {}), tuple(ranks), excluded, tuple(value.get("warnings", ())))


def evidence(material: Material) -> str:
    """On plan or not, rank by rank; those that failed or deviate come first, and a large world is cut after MOST_RANKS."""
    found = []
    for i, node in enumerate(material.document["nodes"]):
        for j, rank in enumerate(node["ranks"]):
            found.append((not _faults(rank), i, j, node, rank))
    found.sort(key=lambda item: item[:3])
    rows: list[list[Any]] = []
    off = sum(not item[0] for item in found)
    # In a large world ranks on plan look alike: a few stand for them.
    shown = found if len(found) <= MOST_RANKS else found[: min(MOST_RANKS, off + FEW)]
    for good, i, j, node, rank in shown:
        seen, at = rank["evidence"], f"{material.origin}#nodes[{i}].ranks[{j}]."
        memory = seen.get("memory_bytes") or {}
        pages = Safe(
            ", ".join(f"node {escape(str(k))}: {number(v / 2**20, f'{at}evidence.memory_bytes.{k}', 0, ' MiB')}" for k, v in memory.items())
        )
        state = tagged("on plan", "ok") if good else tagged("; ".join(_faults(rank)), "off")
        outside, threads = (number(seen.get(key), f"{at}evidence.{key}", 0) for key in ("threads_outside", "threads"))
        rows.append([rank["rank"], node["node_rank"], state, seen.get("cpus"), seen.get("policy"), outside, threads, pages or "-"])
    head = ["rank", "node", "state", "CPUs", "memory policy", "threads outside", "threads", "memory per node"]
    nodes = material.document["nodes"]
    names = {node["node_rank"]: str(node["hostname"]) for node in nodes}
    groups = alike((node["node_rank"], place["text"]) for node in nodes if (place := node.get("placement")))
    lines = [
        f"node {ranks_text(ranks)}{f' ({names[ranks[0]]})' if len(ranks) == 1 else ''}: {text}"
        for text, ranks in list(groups.items())[:MOST_GROUPS]
    ]
    more = f"{len(found)} ranks, {off} of them off plan or failed; {len(shown)} shown, those first." if len(found) > len(shown) else ""
    return section(
        "evidence",
        "Evidence: what the kernel says of each rank",
        *map(soft, lines),
        table(head, rows, (0, 1, 5, 6), (2,) if off else ()) if rows else "",
        soft(more),
    )


def alike(items: Iterable[tuple[int, Any]]) -> dict[Any, list[int]]:
    """Node ranks by what they say, in order of first mention."""
    found: dict[Any, list[int]] = {}
    for node, what in items:
        found.setdefault(what, []).append(node)
    return found


def ranks_text(ranks: Sequence[int]) -> str:
    """0, 0-999, or the first ranges and how many more."""
    ranges = format_list(ranks).split(",")
    shown = ",".join(ranges[:MOST_RANGES])
    return shown if len(ranges) <= MOST_RANGES else f"{shown} and more, {len(ranks)} in all"


def bad_checks(checked: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(status, id, evidence, remedy) of failures and warnings."""
    every = [*checked["checks"], *checked.get("differences", ())]
    return [(c["status"], c["id"], c["evidence"], c.get("remedy")) for c in every if c["status"] in ("FAIL", "WARN")]


def doctor(material: Material) -> str:
    checked = [(node["node_rank"], node["doctor"]) for node in material.document["nodes"] if node.get("doctor") is not None]
    totals = alike((node, ", ".join(f"{n} {status}" for status, n in each["counts"].items())) for node, each in checked)
    counts = [f"node {ranks_text(ranks)}: {text}" for text, ranks in list(totals.items())[:MOST_GROUPS]]
    # What many nodes say in the same words is one row: a thousand nodes with one BIOS setting are one finding.
    groups = alike((node, tuple(row)) for node, each in checked for row in bad_checks(each))
    rows: list[list[Any]] = [
        [ranks_text(ranks), tagged(status, "off" if status == "FAIL" else "warn"), *rest] for (status, *rest), ranks in groups.items()
    ]
    rows.sort(key=lambda row: "off" not in row[1])
    findings = [
        [item.get("severity"), item.get("cause"), item.get("remedy")] for item in (material.document.get("findings") or ())[:MOST_FINDINGS]
    ]
    head = ["node", "status", "check", "evidence", "remedy"]
    tables = [
        table(head, rows[:MOST_FINDINGS], (), (3, 4)) if rows else "",
        table(["severity", "cause", "remedy"], findings, (), (1, 2)) if findings else "",
    ]
    more = f"{len(rows)} findings, {MOST_FINDINGS} shown." if len(rows) > MOST_FINDINGS else ""
    return section("doctor", "Doctor and diagnosis", *map(soft, counts), *tables, soft(more))


def environment(material: Material) -> str:
    document = material.document
    rows: list[list[Any]] = [[key, document[key]] for key in ("created", "workload", "why", "bind", "engine") if document.get(key)]
    rows += [[f"shape: {key}", value] for key, value in document["shape"].items()]
    rows += [[f"image: {key}", value] for key, value in (document.get("image") or {}).items()]
    rows += [[key, value] for key, value in (document.get("versions") or {}).items()]
    nodes = document["nodes"]
    variables = [
        [rank["local_rank"], f"{key}={value}"] for node in nodes[:1] for rank in node["plan"]["ranks"] for key, value in rank["env"].items()
    ]
    listing = table(["local rank", "variable"], variables[:400], (0,), (1,))
    exported = f"<details><summary>Variables of the ranks of node 0 ({len(variables)})</summary>{listing}</details>"
    return section("environment", "Environment and lock", table(["what", "value"], rows, (), (1,)), exported if variables else "")


def logs(material: Material) -> str:
    parts = []
    for log in material.logs:
        if log.size:
            parts.append(f"<details><summary>{escape(log.name)}, {log.size} bytes</summary><pre>{escape(log.text)}</pre></details>")
    empty = [log.name for log in material.logs if not log.size]
    notes = [
        f"Empty: {', '.join(empty[:6])}{f' and {len(empty) - 6} more' if len(empty) > 6 else ''}." if empty else "",
        f"{material.more_logs} more logs are in the folder." if material.more_logs else "",
    ]
    return section("logs", "Logs", *parts, *map(soft, notes))
