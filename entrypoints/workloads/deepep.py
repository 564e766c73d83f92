"""DeepEP's own tests as workloads: where the test file is, which generation it belongs to, which shapes it can run.

Limits are DeepEP's: kernels are instantiated for certain rank counts (csrc/kernels/launch.cuh), the tests assert the rest.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.workloads.model import Prepared, Request, Workload, nearest, nearest_multiple

#: HT kernels exist for these numbers of nodes: v1.2.1, and what later trees (567632d, V2's legacy tests) added.
HT_NODES_V121 = (2, 4, 8, 16, 18, 20)
HT_NODES_LATER = (2, 3, 4, 6, 8, 12, 16, 18, 20)
HIDDEN_V121 = (2048, 2560, 4096, 5120, 6144, 7168, 8192)
HIDDEN_LATER = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)
INTRANODE_RANKS = (2, 4, 8)
#: Experts a token: the HT kernels assert 32 (csrc/kernels/internode.cu, intranode.cu), the LL ones 11 (internode_ll.cu), 1.2.1 to 2.1.0.
HT_TOPK, LL_TOPK = 32, 11
#: Where images keep DeepEP's tests.
HOMES = ("/opt/deepep", "/opt/DeepEP", "/opt/epbox/deepep", "/workspace/DeepEP")


@dataclass(frozen=True)
class Tree:
    """A DeepEP source tree (at least its tests). `v2` tells the generation, `later` a tree newer than v1.2.1."""

    path: Path
    v2: bool
    later: bool

    @property
    def tests(self) -> Path:
        """The folder of the v1 tests: tests/, or tests/legacy/ in V2."""
        return self.path / "tests" / "legacy" if self.v2 else self.path / "tests"

    @property
    def ht_nodes(self) -> tuple[int, ...]:
        """Numbers of nodes that the high-throughput kernels exist for."""
        return HT_NODES_LATER if self.later else HT_NODES_V121


def find_tree(request: Request) -> Tree:
    """The tree by --deepep-path, EPBOX_DEEPEP_PATH or an image's usual places. Raises UsageError when there is none."""
    told = request.deepep_path or request.environ.get("EPBOX_DEEPEP_PATH")
    for candidate in [told] if told else HOMES:
        path = Path(candidate)
        path = path.parent if path.name == "tests" else path
        if (path / "tests" / "elastic").is_dir():
            return Tree(path, v2=True, later=True)
        if (path / "tests" / "test_internode.py").is_file():
            return Tree(path, v2=False, later=_instantiates(path, 3072))
    where = told or ", ".join(HOMES)
    raise UsageError("DeepEP's tests are not there", where=where, hint="use a deepep image, --deepep-path DIR or EPBOX_DEEPEP_PATH")


def _instantiates(tree: Path, hidden: int) -> bool:
    """True when the tree's launch header has a case for this hidden size; trees without sources count as v1.2.1."""
    try:
        text = (tree / "csrc" / "kernels" / "launch.cuh").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(rf"case_macro\({hidden}\)|case {hidden}\b", text) is not None


def _must(ok: bool, what: str, option: str, hint: str) -> None:
    if not ok:
        raise UsageError(what, where=option, hint=f"nearest possible: {hint}")


def _divides(experts: int, world: int) -> None:
    better = nearest_multiple(experts, world)
    _must(experts % world == 0, f"{experts} experts do not divide by {world} ranks", "--num-experts", f"--num-experts {better}")


def _hidden(hidden: int, tree: Tree) -> None:
    sizes = HIDDEN_LATER if tree.later else HIDDEN_V121
    what = f"hidden {hidden} has no kernel (there are {', '.join(map(str, sizes))})"
    _must(hidden in sizes, what, "--hidden", f"--hidden {nearest(hidden, sizes)}")


def _topk(shape: dict[str, int], most: int) -> None:
    """Every size at least 1, and no more experts a token than the kernels take and there are."""
    for name, value in shape.items():
        _must(value >= 1, f"{name} is {value}", f"--{name.replace('_', '-')}", f"--{name.replace('_', '-')} 1")
    most, topk = min(most, shape["num_experts"]), shape["num_topk"]
    _must(topk <= most, f"top-{topk}: the kernels take up to {most}", "--num-topk", f"--num-topk {most}")


def _value(asked: int | None, default: int) -> int:
    return default if asked is None else asked


def _options(shape: dict[str, int], request: Request, ranks: int) -> tuple[str, ...]:
    """argv of a test: its process count and what differs from its own defaults is written out, then the user's own."""
    flags = [word for name, value in shape.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ("--num-processes", str(ranks), *flags, *request.extra)


def _prepared(
    name: str,
    test: str,
    script: Path,
    request: Request,
    shape: dict[str, int],
    env: dict[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Prepared:
    if not script.is_file():
        raise UsageError("no such test in this DeepEP tree", where=str(script), hint="other generation of DeepEP? see --workload")
    full: dict[str, int | None] = {"nodes": request.nodes, "ranks_per_node": request.ranks, **shape}
    return Prepared(name, test, (str(script), *_options(shape, request, request.ranks)), True, full, env or {}, notes)


class Internode:
    """High-throughput kernels over RDMA and NVLink (tests/test_internode.py)."""

    name, placement = "deepep-internode", "deepep-v1"
    summary = "DeepEP's high-throughput test over nodes: 2 or more nodes of 8 GPUs"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        possible = tree.ht_nodes
        what = f"{request.nodes} node(s): the HT kernels exist for {', '.join(map(str, possible))} nodes"
        alone = " or --workload deepep-intranode" if request.nodes == 1 else ""
        _must(request.nodes in possible, what, "--nodes", f"--nodes {nearest(request.nodes, possible)}{alone}")
        _must(request.ranks == 8, f"{request.ranks} ranks a node: the HT test asserts exactly 8", "--ranks", "--ranks 8")
        groups = _value(request.num_topk_groups, min(request.nodes, 4))
        shape = {
            "num_tokens": _value(request.num_tokens, 4096),
            "hidden": _value(request.hidden, 7168),
            "num_topk_groups": groups,
            "num_topk": _value(request.num_topk, 8),
            "num_experts": _value(request.num_experts, nearest_multiple(256, request.world)),
        }
        _topk(shape, HT_TOPK)
        _must(1 <= groups <= request.nodes, f"{groups} groups of {request.nodes} nodes", "--num-topk-groups", f"{min(request.nodes, 4)}")
        _divides(shape["num_experts"], request.world)
        _hidden(shape["hidden"], tree)
        reachable = groups * shape["num_experts"] // request.nodes
        topk = shape["num_topk"]
        _must(topk <= reachable, f"top-{topk} of {reachable} experts in {groups} groups", "--num-topk", f"--num-topk {reachable}")
        notes = ("RDMA bytes count tokens for every node, the local one included",)
        return _prepared(self.name, "internode", tree.tests / "test_internode.py", request, shape, notes=notes)


class Intranode:
    """High-throughput kernels over NVLink (tests/test_intranode.py)."""

    name, placement = "deepep-intranode", "deepep-v1"
    summary = "DeepEP's high-throughput test on one node: 2, 4 or 8 GPUs"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        _must(request.nodes == 1, f"{request.nodes} nodes: this test is for one", "--nodes", "--nodes 1 or --workload deepep-internode")
        ranks = nearest(request.ranks, INTRANODE_RANKS)
        _must(request.ranks in INTRANODE_RANKS, f"{request.ranks} ranks: there are kernels for 2, 4 and 8", "--ranks", f"--ranks {ranks}")
        shape = {
            "num_tokens": _value(request.num_tokens, 4096),
            "hidden": _value(request.hidden, 7168),
            "num_topk": _value(request.num_topk, 8),
            "num_experts": _value(request.num_experts, 256),
        }
        _topk(shape, HT_TOPK)
        _divides(shape["num_experts"], request.world)
        return _prepared(self.name, "intranode", tree.tests / "test_intranode.py", request, shape)


class LowLatency:
    """Low-latency kernels (tests/test_low_latency.py)."""

    name, placement = "deepep-low-latency", "deepep-v1"
    summary = "DeepEP's low-latency test: 1 to 8 GPUs, or whole multiples of 8"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        world = request.world
        what = f"{world} ranks: above 8 the count must be a multiple of 8"
        _must(world <= 8 or world % 8 == 0, what, "--ranks", f"{nearest_multiple(world, 8)} ranks in all")
        shape = {
            "num_tokens": _value(request.num_tokens, 128),
            "hidden": _value(request.hidden, 7168),
            "num_topk": _value(request.num_topk, 8),
            "num_experts": _value(request.num_experts, nearest_multiple(288, world)),
        }
        _topk(shape, LL_TOPK)
        _divides(shape["num_experts"], world)
        _hidden(shape["hidden"], tree)
        notes: tuple[str, ...] = ()
        if world == 1:
            notes = ("one rank: a copy on the card itself, no network figure",)
        elif request.nodes == 1 and not request.hcas:
            notes = ("no HCA here: NVSHMEM goes on over NVLink and says `init failed for transport: IBGDA`, which is harmless on one node",)
        if shape["num_tokens"] == 512:
            notes += ("the test's author calls 512 tokens buggy",)
        return _prepared(self.name, "low_latency", tree.tests / "test_low_latency.py", request, shape, notes=notes)


#: V2's siblings of test_ep: file, the least number of ranks, and what they are.
ELASTIC = {
    "deepep-elastic": ("test_ep.py", 1, "V2's dispatch and combine"),
    "deepep-elastic-agrs": ("test_agrs.py", 1, "V2's all-gather and reduce-scatter"),
    "deepep-elastic-barrier": ("test_barrier.py", 1, "V2's barrier"),
    "deepep-elastic-engram": ("test_engram.py", 1, "V2's remote memory reads"),
    "deepep-elastic-pp": ("test_pp.py", 2, "V2's pipeline send and receive"),
}


class Elastic:
    """V2's tests on NCCL GIN (tests/elastic/)."""

    placement = "deepep-v2"

    def __init__(self, name: str) -> None:
        self.name = name
        self.file, self.least, about = ELASTIC[name]
        self.summary = f"{about} (tests/elastic/{self.file})"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        if not tree.v2:
            raise UsageError("this is a V1 tree, it has no elastic tests", where=str(tree.path), hint="--workload deepep-internode")
        world = request.world
        _must(world >= self.least, f"{world} rank(s): this test needs {self.least}", "--ranks", f"--ranks {self.least}")
        shape: dict[str, int] = {}
        if self.name == "deepep-elastic":
            shape = {
                "num_tokens": _value(request.num_tokens, 4096),
                "hidden": _value(request.hidden, 7168),
                "num_topk": _value(request.num_topk, 6),
                "num_experts": _value(request.num_experts, nearest_multiple(256, world)),
            }
            _topk(shape, shape["num_experts"])
            _divides(shape["num_experts"], world)
        env, notes = self._gin(request)
        test = "elastic_" + self.file.removeprefix("test_").removesuffix(".py")
        return _prepared(self.name, test, tree.path / "tests" / "elastic" / self.file, request, shape, env, notes)

    def _gin(self, request: Request) -> tuple[dict[str, str], tuple[str, ...]]:
        """GIN needs an RDMA network; without one NCCL refuses it, and on one node NVLink carries everything."""
        if "EP_DISABLE_GIN" in request.environ:
            return {}, (f"EP_DISABLE_GIN={request.environ['EP_DISABLE_GIN']} is yours and kept",)
        if request.nodes == 1 and request.world > 1:
            return {"EP_DISABLE_GIN": "1"}, (
                "EP_DISABLE_GIN=1: on one node NVLink carries all traffic, and GIN would ask for an RDMA network",
            )
        return {}, ()


WORKLOADS: tuple[Workload, ...] = (Internode(), Intranode(), LowLatency(), *(Elastic(name) for name in ELASTIC))
