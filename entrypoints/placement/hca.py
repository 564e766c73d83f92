"""Who gets which HCA: a minimum-cost matching with capacities over the candidates."""

from collections import Counter
from collections.abc import Mapping, Sequence

from entrypoints.placement.cpus import UNKNOWN_DISTANCE, distance
from entrypoints.placement.devices import Levels, card_of, gpu_order, hca_order
from entrypoints.topology.model import Gpu, Hca, Topology

#: Nearest first. An unknown path ranks between NODE and SYS: it may be either, and it must not look like the best one.
LEVEL_RANK = {"PIX": 0, "PXB": 1, "PHB": 2, "NODE": 3, None: 4, "SYS": 5}


def capacity(gpus: int, hcas: int) -> int:
    """Ranks that one HCA may serve: an even share of the host's GPUs."""
    return max(1, -(-gpus // hcas)) if hcas else 0


def match(
    topology: Topology, gpus: Sequence[Gpu], hcas: Sequence[Hca], levels: Levels, *, fixed: Mapping[int, Hca] | None = None
) -> dict[int, Hca]:
    """HCA for each GPU index; empty without HCAs. `fixed` holds the user's own choices, by GPU index.

    The sum of these costs is least, each term outweighing all that follow:
    1. path level, worst pairs first (one rank across sockets slows every rank, so their number counts before all else),
    2. NUMA distance of pairs that are not on one switch or bridge,
    3. sharing: within equal paths a free HCA goes before a used one,
    4. cards: a different card goes before a second port of a used one, and single-port cards before dual-port ones
       (dual-port cards beside single-port rails are storage: DGX A100, GB200),
    5. the HCA that the GPU would get if all GPUs of the host were used, so that two half-host jobs do not collide,
    6. bus order: the lowest HCAs, and among these pairs in the order of the bus, as Azure's ND v4 and v5 tables have it.
    The capacity is a share of the whole host's GPUs for the same reason.
    """
    fixed = fixed or {}
    rails = sorted(hcas, key=hca_order)
    rows = sorted((gpu for gpu in gpus if gpu.index not in fixed), key=gpu_order)
    if not rails or not rows:
        return dict(fixed)
    taken = [sum(1 for hca in fixed.values() if hca.label == rail.label) for rail in rails]
    room = capacity(max(len(topology.gpus), len(gpus)), len(rails))
    while sum(max(room - used, 0) for used in taken) < len(rows):
        room += 1
    of_all_gpus = {} if len(rows) >= len(topology.gpus) else match(topology, topology.gpus, rails, levels)
    slots = [(position, turn) for position, used in enumerate(taken) for turn in range(used, room)]
    costs = _Costs(topology, rows, rails, levels, room, of_all_gpus)
    columns = assign([[costs.of(gpu_rank, position, turn) for position, turn in slots] for gpu_rank in range(len(rows))])
    return {**fixed, **{gpu.index: rails[slots[column][0]] for gpu, column in zip(rows, columns, strict=True)}}


class _Costs:
    """Lexicographic costs packed into integers: each term's unit exceeds the largest sum of all lesser terms."""

    def __init__(
        self, topology: Topology, gpus: Sequence[Gpu], rails: Sequence[Hca], levels: Levels, room: int, of_all_gpus: Mapping[int, Hca]
    ) -> None:
        self._gpus, self._rails, self._levels = gpus, rails, levels
        self._topology, self._whole = topology, of_all_gpus
        ports: dict[str, list[int]] = {}
        for position, rail in enumerate(rails):
            ports.setdefault(card_of(rail), []).append(position)
        everywhere = Counter(card_of(hca) for hca in topology.hcas)
        self._port_of_card = [ports[card_of(rail)].index(position) for position, rail in enumerate(rails)]
        self._ports_on_card = [len(ports[card_of(rail)]) for rail in rails]
        self._crowd = [everywhere[card_of(rail)] > 1 for rail in rails]
        nearest = [min((LEVEL_RANK[levels.get((gpu.index, rail.label))] for gpu in topology.gpus), default=5) for rail in rails]
        self._claim = [LEVEL_RANK["SYS"] - rank for rank in nearest]
        # GPUs keep their place in the order of all GPUs of the host, so that hiding one does not shift the others' NICs.
        order = {gpu.index: position for position, gpu in enumerate(sorted(topology.gpus, key=gpu_order))}
        self._place = [order.get(gpu.index, position) for position, gpu in enumerate(gpus)]
        rows = len(gpus)
        span = max([len(rails), *(position + 1 for position in self._place)])
        self._unit_subset = rows * span * span + 1
        self._unit_whole = self._unit_subset * (rows * len(rails) + 1)
        self._unit_crowd = self._unit_whole * (rows + 1)
        self._unit_card = self._unit_crowd * (rows + 1)
        self._unit_share = self._unit_card * (rows * (room + 1) * max(self._ports_on_card) + 1)
        self._unit_node = self._unit_share * (rows * (room + 1) + 1)
        self._unit_level = self._unit_node * (rows * (UNKNOWN_DISTANCE + 1) + 1)
        self._level = {level: self._unit_level * (rows + 1) ** rank if rank else 0 for level, rank in LEVEL_RANK.items()}
        self._pair = [[self._pair_cost(row, position) for position in range(len(rails))] for row in range(rows)]

    def _pair_cost(self, row: int, position: int) -> int:
        gpu, rail = self._gpus[row], self._rails[position]
        level = self._levels.get((gpu.index, rail.label))
        cost = self._level[level] + self._unit_subset * position + (self._place[row] - position) ** 2
        if level is None and gpu.numa_node is None:
            # A cut matrix row: an HCA that sits at another GPU is not likely to be this one's.
            cost += self._unit_node * self._claim[position]
        elif LEVEL_RANK[level] > LEVEL_RANK["PXB"]:
            cost += self._unit_node * distance(self._topology, gpu.numa_node, rail.numa_node)
        if gpu.index in self._whole and self._whole[gpu.index].label != rail.label:
            cost += self._unit_whole
        return cost + self._unit_crowd * self._crowd[position]

    def of(self, row: int, position: int, turn: int) -> int:
        """Cost of giving GPU `row` the `turn`-th place at rail `position`."""
        on_card = turn * self._ports_on_card[position] + self._port_of_card[position]
        return self._pair[row][position] + self._unit_share * turn + self._unit_card * on_card


def assign(costs: Sequence[Sequence[int]]) -> list[int]:
    """The column of each row such that the sum of costs is least; there must be at least as many columns as rows.

    Successive shortest augmenting paths with node potentials (Kuhn 1955, Munkres 1957; the O(rows² · columns) form of
    Jonker & Volgenant 1987). Ties are broken by position alone, so equal input gives equal output.
    """
    rows = len(costs)
    if not rows:
        return []
    columns = len(costs[0])
    if columns < rows:
        raise ValueError(f"{rows} rows cannot be assigned to {columns} columns")
    row_potential = [0] * rows
    column_potential = [0] * columns
    owner = [-1] * columns
    for start in range(rows):
        # Grow a shortest-path tree from the free row until it reaches a free column.
        best: list[int | None] = [None] * columns
        parent = [-1] * columns
        open_columns = list(range(columns))
        reached: list[int] = []
        row, at = start, -1
        while True:
            line, base = costs[row], row_potential[row]
            nearest, gap = -1, None
            for column in open_columns:
                reduced = line[column] - base - column_potential[column]
                least = best[column]
                if least is None or reduced < least:
                    best[column] = least = reduced
                    parent[column] = at
                if gap is None or least < gap:
                    gap, nearest = least, column
            assert gap is not None
            row_potential[start] += gap
            for column in reached:
                row_potential[owner[column]] += gap
                column_potential[column] -= gap
            open_columns.remove(nearest)
            for column in open_columns:
                best[column] -= gap  # type: ignore[operator]
            reached.append(nearest)
            at = nearest
            if owner[nearest] < 0:
                break
            row = owner[nearest]
        while at >= 0:
            before = parent[at]
            owner[at] = owner[before] if before >= 0 else start
            at = before
    return [owner.index(row) for row in range(rows)]
