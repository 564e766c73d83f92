"""DeepEP's own tests as workloads: the test file, the generation it belongs to, and the shapes it can run.

Limits are DeepEP's: kernels are instantiated for certain rank counts (csrc/kernels/launch.cuh), the tests assert the rest.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from entrypoints.errors import UsageError
from entrypoints.workloads.model import Prepared, Request, Workload, nearest, nearest_multiple, require, require_divisible

#: HT kernels exist for these numbers of nodes: v1.2.1, and what later trees (567632d, V2's legacy tests) added.
HT_NODES_V121 = (2, 4, 8, 16, 18, 20)
HT_NODES_LATER = (2, 3, 4, 6, 8, 12, 16, 18, 20)
HIDDEN_V121 = (2048, 2560, 4096, 5120, 6144, 7168, 8192)
HIDDEN_LATER = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)
INTRANODE_RANKS = (2, 4, 8)
#: Experts a token: the HT kernels assert 32 (csrc/kernels/internode.cu, intranode.cu), the LL ones 11 (internode_ll.cu), 1.2.1 to 2.1.0.
HT_TOPK, LL_TOPK = 32, 11
#: Folders in which images keep DeepEP's tests.
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
    named = request.deepep_path or request.environ.get("EPBOX_DEEPEP_PATH")
    folders = [named] if named else HOMES
    for folder in folders:
        path = Path(folder)
        path = path.parent if path.name == "tests" else path
        if (path / "tests" / "elastic").is_dir():
            return Tree(path, v2=True, later=True)
        if (path / "tests" / "test_internode.py").is_file():
            return Tree(path, v2=False, later=_is_later(path))
    raise UsageError(
        "DeepEP's tests are not there", where=", ".join(folders), hint="use a deepep image, --deepep-path DIR or EPBOX_DEEPEP_PATH"
    )


def _is_later(tree: Path) -> bool:
    """True when the tree's launch header has a case for hidden 3072; trees without sources count as v1.2.1."""
    with suppress(OSError):
        header = (tree / "csrc" / "kernels" / "launch.cuh").read_text(encoding="utf-8", errors="replace")
        return re.search(r"case_macro\(3072\)|case 3072\b", header) is not None
    return False


def _require_hidden(hidden: int, tree: Tree) -> None:
    sizes = HIDDEN_LATER if tree.later else HIDDEN_V121
    problem = f"hidden {hidden} has no kernel (there are {', '.join(map(str, sizes))})"
    require(hidden in sizes, problem, "--hidden", f"--hidden {nearest(hidden, sizes)}")


def _require_topk(shape: dict[str, int], most: int) -> None:
    """Every size at least 1, and no more experts a token than the kernels take and there are."""
    for name, value in shape.items():
        require(value >= 1, f"{name} is {value}", f"--{name.replace('_', '-')}", f"--{name.replace('_', '-')} 1")
    most, topk = min(most, shape["num_experts"]), shape["num_topk"]
    require(topk <= most, f"top-{topk}: the kernels take up to {most}", "--num-topk", f"--num-topk {most}")


def _prepared(name: str, test: str, script: Path, request: Request, shape: dict[str, int], *notes: str) -> Prepared:
    """The test's process count and all sizes are written out, then come the user's own options."""
    if not script.is_file():
        raise UsageError("no such test in this DeepEP tree", where=str(script), hint="other generation of DeepEP? see --workload")
    flags = [word for size, value in shape.items() for word in (f"--{size.replace('_', '-')}", str(value))]
    argv = (str(script), "--num-processes", str(request.ranks), *flags, *request.extra)
    return Prepared(name, test, argv, True, {"nodes": request.nodes, "ranks_per_node": request.ranks, **shape}, notes=notes)


class Internode:
    """High-throughput kernels over RDMA and NVLink (tests/test_internode.py): 2 or more nodes of 8 GPUs."""

    name, placement = "deepep-internode", "deepep-v1"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        possible = tree.ht_nodes
        problem = f"{request.nodes} node(s): the HT kernels exist for {', '.join(map(str, possible))} nodes"
        alone = " or --workload deepep-intranode" if request.nodes == 1 else ""
        require(request.nodes in possible, problem, "--nodes", f"--nodes {nearest(request.nodes, possible)}{alone}")
        require(request.ranks == 8, f"{request.ranks} ranks a node: the HT test asserts exactly 8", "--ranks", "--ranks 8")
        defaults = {"num_tokens": 4096, "hidden": 7168, "num_topk_groups": min(request.nodes, 4), "num_topk": 8}
        shape = request.sizes({**defaults, "num_experts": nearest_multiple(256, request.world)})
        _require_topk(shape, HT_TOPK)
        groups = shape["num_topk_groups"]
        require(1 <= groups <= request.nodes, f"{groups} groups of {request.nodes} nodes", "--num-topk-groups", f"{min(request.nodes, 4)}")
        require_divisible(shape["num_experts"], request.world)
        _require_hidden(shape["hidden"], tree)
        reachable = groups * shape["num_experts"] // request.nodes
        topk = shape["num_topk"]
        require(topk <= reachable, f"top-{topk} of {reachable} experts in {groups} groups", "--num-topk", f"--num-topk {reachable}")
        note = "RDMA bytes count tokens for every node, the local one included"
        return _prepared(self.name, "internode", tree.tests / "test_internode.py", request, shape, note)


class Intranode:
    """High-throughput kernels over NVLink (tests/test_intranode.py): one node of 2, 4 or 8 GPUs."""

    name, placement = "deepep-intranode", "deepep-v1"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        require(request.nodes == 1, f"{request.nodes} nodes: this test is for one", "--nodes", "--nodes 1 or --workload deepep-internode")
        ranks = nearest(request.ranks, INTRANODE_RANKS)
        require(request.ranks in INTRANODE_RANKS, f"{request.ranks} ranks: there are kernels for 2, 4 and 8", "--ranks", f"--ranks {ranks}")
        shape = request.sizes({"num_tokens": 4096, "hidden": 7168, "num_topk": 8, "num_experts": 256})
        _require_topk(shape, HT_TOPK)
        require_divisible(shape["num_experts"], request.world)
        return _prepared(self.name, "intranode", tree.tests / "test_intranode.py", request, shape)


class LowLatency:
    """Low-latency kernels (tests/test_low_latency.py): 1 to 8 GPUs, or whole multiples of 8."""

    name, placement = "deepep-low-latency", "deepep-v1"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        world = request.world
        problem = f"{world} ranks: above 8 the count must be a multiple of 8"
        require(world <= 8 or world % 8 == 0, problem, "--ranks", f"{nearest_multiple(world, 8)} ranks in all")
        shape = request.sizes({"num_tokens": 128, "hidden": 7168, "num_topk": 8, "num_experts": nearest_multiple(288, world)})
        _require_topk(shape, LL_TOPK)
        require_divisible(shape["num_experts"], world)
        _require_hidden(shape["hidden"], tree)
        notes = []
        if world == 1:
            notes.append("one rank: a copy on the card itself, no network figure")
        elif request.nodes == 1 and not request.hcas:
            notes.append(
                "no HCA here: NVSHMEM goes on over NVLink and says `init failed for transport: IBGDA`, which is harmless on one node"
            )
        if shape["num_tokens"] == 512:
            notes.append("the test's author calls 512 tokens buggy")
        return _prepared(self.name, "low_latency", tree.tests / "test_low_latency.py", request, shape, *notes)


@dataclass
class Elastic:
    """A test of V2 on NCCL GIN (tests/elastic/)."""

    name: str
    file: str
    least_ranks: int = 1
    placement: str = "deepep-v2"

    def prepare(self, request: Request) -> Prepared:
        tree = find_tree(request)
        if not tree.v2:
            raise UsageError("this is a V1 tree, it has no elastic tests", where=str(tree.path), hint="--workload deepep-internode")
        world = request.world
        problem = f"{world} rank(s): this test needs {self.least_ranks}"
        require(world >= self.least_ranks, problem, "--ranks", f"--ranks {self.least_ranks}")
        shape: dict[str, int] = {}
        if self.name == "deepep-elastic":
            shape = request.sizes({"num_tokens": 4096, "hidden": 7168, "num_topk": 6, "num_experts": nearest_multiple(256, world)})
            _require_topk(shape, shape["num_experts"])
            require_divisible(shape["num_experts"], world)
        test = "elastic_" + self.file.removeprefix("test_").removesuffix(".py")
        prepared = _prepared(self.name, test, tree.path / "tests" / "elastic" / self.file, request, shape)
        # GIN needs an RDMA network; without one NCCL refuses it.
        if "EP_DISABLE_GIN" in request.environ:
            return replace(prepared, notes=(f"EP_DISABLE_GIN={request.environ['EP_DISABLE_GIN']} is yours and kept",))
        if request.nodes == 1 and world > 1:
            note = "EP_DISABLE_GIN=1: on one node NVLink carries all traffic, and GIN would ask for an RDMA network"
            return replace(prepared, env={"EP_DISABLE_GIN": "1"}, notes=(note,))
        return prepared


WORKLOADS: tuple[Workload, ...] = (
    Internode(),
    Intranode(),
    LowLatency(),
    Elastic("deepep-elastic", "test_ep.py"),  # dispatch and combine
    Elastic("deepep-elastic-agrs", "test_agrs.py"),  # all-gather and reduce-scatter
    Elastic("deepep-elastic-barrier", "test_barrier.py"),
    Elastic("deepep-elastic-engram", "test_engram.py"),  # remote memory reads
    Elastic("deepep-elastic-pp", "test_pp.py", least_ranks=2),  # pipeline send and receive
)
