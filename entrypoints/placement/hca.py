"""Who gets which HCA: a minimum-cost matching with capacities over the candidates."""

from collections.abc import Mapping, Sequence

from entrypoints.placement.assignment import assign
from entrypoints.placement.cpus import UNKNOWN_DISTANCE, distance
from entrypoints.placement.distance import Levels, card_of, gpu_order, hca_order
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
    whole = {} if len(rows) >= len(topology.gpus) else match(topology, topology.gpus, rails, levels)
    slots = [(position, turn) for position, used in enumerate(taken) for turn in range(used, room)]
    costs = _Costs(topology, rows, rails, levels, room, whole)
    columns = assign([[costs.of(gpu_rank, position, turn) for position, turn in slots] for gpu_rank in range(len(rows))])
    return {**fixed, **{gpu.index: rails[slots[column][0]] for gpu, column in zip(rows, columns, strict=True)}}


class _Costs:
    """Lexicographic costs packed into integers: each term's unit exceeds the largest sum of all lesser terms."""

    def __init__(
        self, topology: Topology, gpus: Sequence[Gpu], rails: Sequence[Hca], levels: Levels, room: int, whole: Mapping[int, Hca]
    ) -> None:
        self._gpus, self._rails, self._levels = gpus, rails, levels
        self._topology, self._whole = topology, whole
        self._distances: dict[tuple[int | None, int | None], int] = {}
        ports: dict[str, list[int]] = {}
        for position, rail in enumerate(rails):
            ports.setdefault(card_of(rail), []).append(position)
        everywhere: dict[str, int] = {}
        for hca in topology.hcas:
            everywhere[card_of(hca)] = everywhere.get(card_of(hca), 0) + 1
        self._port_of_card = [ports[card_of(rail)].index(position) for position, rail in enumerate(rails)]
        self._ports_on_card = [len(ports[card_of(rail)]) for rail in rails]
        self._crowd = [everywhere.get(card_of(rail), 1) > 1 for rail in rails]
        nearest = [min((LEVEL_RANK[levels.get((gpu.index, rail.label))] for gpu in topology.gpus), default=5) for rail in rails]
        self._claim = [LEVEL_RANK["SYS"] - rank for rank in nearest]
        # GPUs keep their place in the order of all GPUs of the host, so that hiding one does not shift the others' NICs.
        order = {gpu.index: place for place, gpu in enumerate(sorted(topology.gpus, key=gpu_order))}
        self._place = [order.get(gpu.index, place) for place, gpu in enumerate(gpus)]
        rows = len(gpus)
        span = max([len(rails), *(place + 1 for place in self._place)])
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
            cost += self._unit_node * self._distance(gpu.numa_node, rail.numa_node)
        if gpu.index in self._whole and self._whole[gpu.index].label != rail.label:
            cost += self._unit_whole
        return cost + self._unit_crowd * self._crowd[position]

    def _distance(self, here: int | None, there: int | None) -> int:
        if (here, there) not in self._distances:
            self._distances[here, there] = distance(self._topology, here, there)
        return self._distances[here, there]

    def of(self, row: int, position: int, turn: int) -> int:
        """Cost of giving GPU `row` the `turn`-th place at rail `position`."""
        on_card = turn * self._ports_on_card[position] + self._port_of_card[position]
        return self._pair[row][position] + self._unit_share * turn + self._unit_card * on_card
