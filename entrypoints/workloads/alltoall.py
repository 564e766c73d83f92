"""`alltoall`: MoE dispatch and combine on torch.distributed's all-to-all. The embedded default, and the baseline on GPUs."""

from entrypoints.errors import UsageError
from entrypoints.workloads.model import Prepared, Request, nearest_multiple

#: DeepEP's own defaults (tests/test_internode.py, v1.2.1).
GPU_SHAPE = {"num_tokens": 4096, "hidden": 7168, "num_topk": 8, "num_experts": 256, "warmup": 10, "repeats": 30}
#: Small enough for two cores and four ranks in a few seconds; eight experts a rank as in DeepEP's EP32.
CPU_SHAPE = {"num_tokens": 256, "hidden": 1024, "num_topk": 4, "experts_per_rank": 8, "warmup": 3, "repeats": 15}
#: FP8 scales are per token and 128 elements (per_token_cast_to_fp8 in DeepEP's tests).
SCALE_GROUP = 128


def check_shape(shape: dict[str, int], nodes: int, ranks: int) -> None:
    """Raise UsageError, with the nearest possible value, for a shape the definition has no meaning for."""
    world = nodes * ranks
    for name in ("num_tokens", "hidden", "num_topk", "num_topk_groups", "num_experts", "repeats"):
        if shape[name] < 1:
            raise UsageError(f"{name} is {shape[name]}", where=f"--{name.replace('_', '-')}", hint="use at least 1")
    experts = shape["num_experts"]
    if experts % world:
        raise UsageError(
            f"{experts} experts do not divide by {world} ranks",
            where="--num-experts",
            hint=f"nearest possible: --num-experts {nearest_multiple(experts, world)}",
        )
    if shape["hidden"] % SCALE_GROUP:
        raise UsageError(
            f"hidden {shape['hidden']} is not a multiple of {SCALE_GROUP}, the FP8 scale group",
            where="--hidden",
            hint=f"nearest possible: --hidden {nearest_multiple(shape['hidden'], SCALE_GROUP)}",
        )
    if shape["num_topk_groups"] > nodes:
        raise UsageError(
            f"{shape['num_topk_groups']} node groups of {nodes} node(s)",
            where="--num-topk-groups",
            hint=f"nearest possible: --num-topk-groups {nodes}",
        )
    reachable = shape["num_topk_groups"] * experts // nodes
    if shape["num_topk"] > reachable:
        raise UsageError(
            f"top-{shape['num_topk']} of {reachable} experts that {shape['num_topk_groups']} node group(s) hold",
            where="--num-topk",
            hint=f"nearest possible: --num-topk {reachable}",
        )


class AllToAll:
    """MoE dispatch and combine as DeepEP's internode test defines them, on NCCL (GPUs) or gloo (CPUs)."""

    name = "alltoall"
    summary = "MoE dispatch and combine on torch.distributed: NCCL on GPUs, gloo on CPUs"
    placement = "alltoall"

    def shape(self, request: Request) -> dict[str, int]:
        """The full shape: what was asked for, the rest by default."""
        on_gpus = request.gpus > 0
        defaults = dict(GPU_SHAPE if on_gpus else CPU_SHAPE)
        experts = defaults.pop("num_experts", 0) or defaults.pop("experts_per_rank") * request.world
        shape = {name: value for name in defaults if (value := getattr(request, name)) is not None}
        shape = {**defaults, **shape}
        # An explicit count must fit as it is; only the default may move to the next multiple.
        shape["num_experts"] = nearest_multiple(experts, request.world) if request.num_experts is None else request.num_experts
        shape["num_topk_groups"] = min(request.nodes, 4) if request.num_topk_groups is None else request.num_topk_groups
        check_shape(shape, request.nodes, request.ranks)
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
        argv = ("-m", "entrypoints.workloads.alltoall_rank", f"--backend={backend}", f"--seed={request.seed}", *options, *request.extra)
        notes = [f"{backend} all-to-all; bandwidth is algorithm bandwidth in DeepEP's sense, not wire traffic"]
        if request.world == 1:
            notes.append("one rank: a copy on the device itself, no network figure")
        return Prepared(
            workload=self.name,
            test="alltoall",
            argv=argv,
            script=False,
            shape={"nodes": request.nodes, "ranks_per_node": request.ranks, **shape},
            notes=tuple(notes),
        )
