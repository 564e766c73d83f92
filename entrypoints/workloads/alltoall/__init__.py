"""`alltoall`: MoE dispatch and combine on torch.distributed's all-to-all. The embedded default, and the baseline on GPUs."""

from entrypoints.errors import UsageError
from entrypoints.workloads.model import Prepared, Request, nearest_multiple, require, require_divisible

#: DeepEP's own defaults (tests/test_internode.py, v1.2.1).
GPU_SHAPE = {"num_tokens": 4096, "hidden": 7168, "num_topk": 8, "warmup": 10, "repeats": 30}
GPU_EXPERTS = 256
#: Small enough for two cores and four ranks in a few seconds; eight experts a rank as in DeepEP's EP32.
CPU_SHAPE = {"num_tokens": 256, "hidden": 1024, "num_topk": 4, "warmup": 3, "repeats": 15}
CPU_EXPERTS_PER_RANK = 8
#: FP8 scales are per token and 128 elements (per_token_cast_to_fp8 in DeepEP's tests).
SCALE_GROUP = 128


class AllToAll:
    """MoE dispatch and combine as DeepEP's internode test defines them, on NCCL (GPUs) or gloo (CPUs)."""

    name = placement = "alltoall"

    def shape(self, request: Request) -> dict[str, int]:
        """The sizes that were requested, and defaults for the rest.

        Raises UsageError, with the nearest possible value, for a shape the definition has no meaning for.
        """
        nodes, experts = request.nodes, GPU_EXPERTS if request.gpus else CPU_EXPERTS_PER_RANK * request.world
        defaults = GPU_SHAPE if request.gpus else CPU_SHAPE
        # An explicit count must fit as it is; only the default may move to the next multiple.
        defaults = defaults | {"num_experts": nearest_multiple(experts, request.world), "num_topk_groups": min(nodes, 4)}
        shape = request.sizes(defaults)
        for name in ("num_tokens", "hidden", "num_topk", "num_topk_groups", "num_experts", "repeats"):
            if shape[name] < 1:
                raise UsageError(f"{name} is {shape[name]}", where=f"--{name.replace('_', '-')}", hint="use at least 1")
        experts, hidden, groups, topk = shape["num_experts"], shape["hidden"], shape["num_topk_groups"], shape["num_topk"]
        require_divisible(experts, request.world)
        problem = f"hidden {hidden} is not a multiple of {SCALE_GROUP}, the FP8 scale group"
        require(hidden % SCALE_GROUP == 0, problem, "--hidden", f"--hidden {nearest_multiple(hidden, SCALE_GROUP)}")
        require(groups <= nodes, f"{groups} node groups of {nodes} node(s)", "--num-topk-groups", f"--num-topk-groups {nodes}")
        reachable = groups * experts // nodes
        problem = f"top-{topk} of {reachable} experts that {groups} node group(s) hold"
        require(topk <= reachable, problem, "--num-topk", f"--num-topk {reachable}")
        return shape

    def prepare(self, request: Request) -> Prepared:
        if request.gpus and request.ranks > request.gpus:
            raise UsageError(
                f"{request.ranks} ranks on {request.gpus} GPU(s): NCCL takes one rank a GPU",
                where="--ranks",
                hint=f"nearest possible: --ranks {request.gpus}; or hide the GPUs (CUDA_VISIBLE_DEVICES=) to run on gloo",
            )
        shape = self.shape(request)
        options = [f"--{name.replace('_', '-')}={value}" for name, value in shape.items()]
        backend = "nccl" if request.gpus else "gloo"
        argv = ("-m", "entrypoints.workloads.alltoall.rank", f"--backend={backend}", f"--seed={request.seed}", *options, *request.extra)
        notes = [f"{backend} all-to-all; bandwidth is algorithm bandwidth in DeepEP's sense, not wire traffic"]
        if request.world == 1:
            notes.append("one rank: a copy on the device itself, no network figure")
        full: dict[str, int | None] = {"nodes": request.nodes, "ranks_per_node": request.ranks, **shape}
        return Prepared(self.name, "alltoall", argv, script=False, shape=full, notes=tuple(notes))
