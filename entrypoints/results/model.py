"""The one shape of a result: result.json (epbox.result/1), the runs of `results LOG`, and the lines of index.jsonl.

Bandwidths (`_gbps`) are GB/s, times `_us` or `_s`. `entrypoints.results.codec` reads and writes these classes. A field's metadata may
name its `key` in the JSON, where that is not the field's own name, and keywords of its JSON `schema` beside the type.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from entrypoints.results.ranks import OMIT, JsonObject, Placement, RankRecord, Record

RESULT_SCHEMA = "epbox.result/1"
#: The arm of the all-to-all that `bench --baseline` runs beside the workload.
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class OfOperation(Record):
    """A row about one operation (dispatch, combine, or both together) with one type of data."""

    op: str
    dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shape(Record):
    """Sizes of a job (`ranks_per_node`) or of a run (`ranks`, of all nodes); None where the log does not tell."""

    nodes: int | None = None
    ranks: int | None = field(default=None, metadata=OMIT)
    ranks_per_node: int | None = field(default=None, metadata=OMIT)
    num_tokens: int | None = field(default=None, metadata=OMIT)
    hidden: int | None = field(default=None, metadata=OMIT)
    num_topk: int | None = field(default=None, metadata=OMIT)
    num_topk_groups: int | None = field(default=None, metadata=OMIT)
    num_experts: int | None = field(default=None, metadata=OMIT)

    def sizes(self) -> dict[str, Any]:
        """The known sizes by name, those of this version first."""
        named = {size.name: getattr(self, size.name) for size in fields(self) if size.name != "extra"}
        return {name: size for name, size in (named | self.extra).items() if size is not None}

    def filled(self, other: "Shape") -> "Shape":
        """This shape, with the sizes of another one where this one has none."""
        sizes = {**other.sizes(), **self.sizes()}
        named = {name: sizes.pop(name) for name in [size.name for size in fields(self)] if name in sizes}
        return Shape(**named, extra=sizes)


@dataclass(frozen=True, kw_only=True)
class Stat(Record):
    """Times over the repeats inside a run, in microseconds."""

    median: float
    p25: float
    p75: float
    min: float
    max: float
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Best(OfOperation):
    """One operation of a run, as its test printed it as its best; `us` is the spread over repeats where the test tells it."""

    op: str = field(metadata={"schema": {"enum": ["dispatch", "combine"]}})
    dtype: str | None = field(default=None, metadata={"schema": {"enum": ["fp8", "bf16", "int8", None]}})
    sms: int | None = None
    nvl_chunk: int | str | None = None
    rdma_chunk: int | None = None
    rdma_gbps: float | None = None
    nvl_gbps: float | None = None
    transmit_us: float | None = None
    notify_us: float | None = None
    time_us: float | None = field(default=None, metadata=OMIT)
    us: Stat | None = field(default=None, metadata=OMIT)
    #: Bytes a rank, by what counts them: rdma, nvl, off_node.
    bytes: dict[str, int] | None = field(default=None, metadata=OMIT)
    per_rank_us: tuple[float, ...] | None = field(default=None, metadata=OMIT)
    statistic: str | None = field(default=None, metadata=OMIT)
    case: str | None = field(default=None, metadata=OMIT)
    rdma_only_gbps: float | None = field(default=None, metadata=OMIT)
    #: Who printed it, and the how many-th copy of the same line it is: every node prints its own.
    writer: str | None = field(default=None, metadata=OMIT)
    copy: int | None = field(default=None, metadata=OMIT)
    link: str | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class LowLatency(Record):
    """Both low-latency kernels of one rank together."""

    rank: int
    dispatch_combine_gbps: float
    avg_us: float
    min_us: float | None = field(default=None, metadata=OMIT)
    max_us: float | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class LowLatencyKernels(Record):
    """Each low-latency kernel of one rank alone, and its phases where the test prints them."""

    rank: int
    dispatch_gbps: float | None = field(default=None, metadata=OMIT)
    dispatch_us: float | None = field(default=None, metadata=OMIT)
    combine_gbps: float | None = field(default=None, metadata=OMIT)
    combine_us: float | None = field(default=None, metadata=OMIT)
    dispatch_total_us: float | None = field(default=None, metadata=OMIT)
    dispatch_send_us: float | None = field(default=None, metadata=OMIT)
    dispatch_recv_us: float | None = field(default=None, metadata=OMIT)
    combine_total_us: float | None = field(default=None, metadata=OMIT)
    combine_send_us: float | None = field(default=None, metadata=OMIT)
    combine_recv_us: float | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class Sweep(OfOperation):
    """The points of one operation's tuning sweep; a point has a number or None for each of `columns`."""

    columns: tuple[str, ...] = ()
    points: tuple[tuple[float | None, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Correctness(Record):
    """The verdict on the numbers, and who says so."""

    passed: bool
    source: str | None = field(default=None, metadata=OMIT)
    cases: int | None = field(default=None, metadata=OMIT)
    received_tokens_checked: int | None = field(default=None, metadata=OMIT)
    combined_tokens_checked: int | None = field(default=None, metadata=OMIT)
    failures: tuple[str, ...] | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class Run(Record):
    """The measurements of one start of a test. `launch`, `bind` and `arm` are bench's; `source` and `line` are where the log has it."""

    test: str = field(metadata={"schema": {"pattern": "^(internode|intranode|low_latency|elastic_[a-z]+|alltoall)$"}})
    format: str | None = None
    shape: Shape = field(default_factory=Shape)
    best: tuple[Best, ...] = ()
    tuning_lines: int = 0
    passed_cases: int = 0
    expected_cases: int | None = field(default=None, metadata=OMIT)
    test_cases: int | None = field(default=None, metadata=OMIT)
    low_latency: tuple[LowLatency, ...] = ()
    low_latency_kernels: tuple[LowLatencyKernels, ...] | None = field(default=None, metadata=OMIT)
    send_recv_lines: int | None = field(default=None, metadata=OMIT)
    #: Of tests/elastic: every configuration of test_ep (with --sweep), and the lines of its siblings.
    configurations: tuple[JsonObject, ...] | None = field(default=None, metadata=OMIT)
    metrics: tuple[JsonObject, ...] | None = field(default=None, metadata=OMIT)
    complete: bool = False
    #: How many nodes or ranks printed the same figures into one log: these are one run.
    copies: int | None = field(default=None, metadata=OMIT)
    missing: tuple[str, ...] | None = field(default=None, metadata=OMIT)
    layout_ms: float | None = field(default=None, metadata=OMIT)
    sweep: tuple[Sweep, ...] | None = field(default=None, metadata=OMIT)
    source: str | None = field(default=None, metadata=OMIT)
    sources: tuple[str, ...] | None = field(default=None, metadata=OMIT)
    line: int | None = field(default=None, metadata=OMIT)
    torch: str | None = field(default=None, metadata=OMIT)
    backend: str | None = field(default=None, metadata=OMIT)
    fp8_emulated: bool | None = field(default=None, metadata=OMIT)
    world: int | None = field(default=None, metadata=OMIT)
    correctness: Correctness | None = field(default=None, metadata=OMIT)
    launch: int | None = field(default=None, metadata=OMIT)
    bind: str | None = field(default=None, metadata=OMIT)
    arm: str | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class Launch(Record):
    """One start of all ranks of a node."""

    arm: str | None = None
    bind: str
    exit_code: int
    cause: str = ""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Check(Record):
    """One check of doctor: status is PASS, WARN, FAIL or NOT_RUN."""

    id: str
    title: str | None = field(default=None, metadata=OMIT)
    status: str
    evidence: str = ""
    remedy: str | None = field(default=None, metadata=OMIT)
    source: str | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class Doctor(Record):
    """The preflight of one node; `differences` to the other nodes are node 0's."""

    counts: dict[str, int]
    failed: tuple[str, ...]
    checks: tuple[Check, ...]
    differences: tuple[Check, ...] | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class Image(Record):
    """The image that a run was in."""

    name: str | None = None
    id: str | None = None
    recipe: str | None = None
    lock: str | None = None
    labels: JsonObject | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class Node(Record):
    """One node's record. `ranks` are those of the launch that failed, else of the last that was bound by the plan.

    `versions`, `image` and `runs` are what the node sends; of node 0 they stand at the top of result.json and not here.
    """

    node_rank: int
    hostname: str
    plan: JsonObject = field(
        default_factory=dict, metadata={"schema": {"required": ["schema", "ranks"], "properties": {"schema": {"const": "epbox.plan/1"}}}}
    )
    ranks: tuple[RankRecord, ...] = ()
    placement: Placement | None = None
    placement_arm: str | None = field(default=None, metadata=OMIT)
    doctor: Doctor | None = None
    exit_code: int = 0
    cause: str = ""
    correctness: Correctness | None = None
    launches: tuple[Launch, ...] = ()
    versions: dict[str, str] | None = field(default=None, metadata=OMIT)
    image: Image | None = field(default=None, metadata=OMIT)
    runs: tuple[Run, ...] | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class SummaryRow(OfOperation):
    """Median and spread of one operation over the runs of one arm."""

    arm: str | None = field(default=None, metadata=OMIT)
    direction: str = field(metadata={"schema": {"enum": ["RDMA", "NVL", "total"]}})
    median_gbps: float
    min_gbps: float
    max_gbps: float
    p25_gbps: float | None = field(default=None, metadata=OMIT)
    p75_gbps: float | None = field(default=None, metadata=OMIT)
    runs: int = field(metadata={"schema": {"minimum": 1}})


@dataclass(frozen=True, kw_only=True)
class Change(Record):
    """A relative change of a median, and whether it is noise (None: too few runs to say)."""

    change: float | None = None
    noise: bool | None = None


@dataclass(frozen=True, kw_only=True)
class AblationRow(OfOperation):
    """One operation of one arm: its median, its spread, and its change against the arm before and against the first."""

    arm: str
    direction: str = ""
    median_gbps: float
    low_gbps: float
    high_gbps: float
    runs: int
    change: float | None = None
    noise: bool | None = None
    against_none: Change = field(default_factory=Change)
    #: What arms that are equal here differ by: no smaller change counts. None where no arms are equal.
    floor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Arm(Record):
    """One setting of an ablation."""

    arm: str
    bind: str
    env: dict[str, str] = field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(OfOperation):
    """DeepEP beside the all-to-all; a ratio above 1 means that DeepEP is faster, for bandwidths and times alike."""

    direction: str = field(metadata={"schema": {"enum": ["RDMA", "NVL", "us"]}})
    value: float
    baseline: float
    ratio: float
    ratio_min: float
    ratio_max: float
    runs: int = field(metadata={"schema": {"minimum": 1}})


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """The all-to-all of the same shape beside the workload; `compared` says in words what a ratio sets side by side."""

    workload: str
    backend: str | None = field(default=None, metadata=OMIT)
    rows: tuple[ComparisonRow, ...] = ()
    compared: str = field(metadata={"schema": {"minLength": 1}})
    #: The folder that the all-to-all comes from, where that is not this result's.
    origin: str | None = field(default=None, metadata={**OMIT, "key": "from"})


@dataclass(frozen=True, kw_only=True)
class ReferenceRow(Record):
    """One figure beside a published one of the same test and shape; a ratio above 1 is better, for bandwidths and times alike."""

    metric: str
    value: float
    reference: float
    ratio: float
    id: str
    hardware: str
    version: str | None = None
    bound: bool | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class WireRow(Record):
    """One figure beside the line rate of a rank's ports."""

    metric: str
    value: float
    off_node_gbps: float
    line_rate_gbps: float
    share: float
    explanation: str


@dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """One cause that diagnosis found. `severity` is fatal (the run failed or its numbers are void), warning (it finished, but something
    is wrong or slow) or benign (known to be harmless here). `line` counts from 1 in `log`; `follows` names the finding it results from."""

    cause_id: str
    severity: str
    cause: str
    remedy: str = ""
    line: int | None = None
    text: str = ""
    count: int = 1
    source: str = ""
    signature: str | None = None
    follows: str | None = None
    evidence: tuple[str, ...] = ()
    log: str | None = None


@dataclass(frozen=True, kw_only=True)
class RendezvousRecord(Record):
    """The meeting point of the nodes."""

    nodes: int
    master_port: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    """A result.json. `runs` are node 0's: every node of DeepEP's tests prints the same ones."""

    schema: str = field(default=RESULT_SCHEMA, metadata={"schema": {"const": RESULT_SCHEMA}})
    created: str | None = field(default=None, metadata={"schema": {"pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"}})
    workload: str = ""
    workload_reason: str = field(default="", metadata={"key": "why"})
    status: str = field(default="", metadata={"schema": {"enum": ["ok", "failed"]}})
    exit_code: int | None = field(default=None, metadata={"schema": {"minimum": 0, "maximum": 255}})
    verdict: str = field(metadata={"schema": {"minLength": 1}})
    shape: Shape
    bind: str | None = None
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...]
    summary: tuple[SummaryRow, ...] = ()
    references: tuple[ReferenceRow, ...] = ()
    wire: tuple[WireRow, ...] = ()
    correctness: Correctness | None = None
    nodes: tuple[Node, ...] = field(metadata={"schema": {"minItems": 1}})
    rendezvous: RendezvousRecord | None = None
    engine: str | None = None
    image: Image | None = None
    versions: dict[str, str] = field(default_factory=dict, metadata={"schema": {"required": ["epbox", "python"]}})
    arms: tuple[Arm, ...] | None = field(default=None, metadata=OMIT)
    ablation: tuple[AblationRow, ...] | None = field(default=None, metadata=OMIT)
    baseline: Comparison | None = field(default=None, metadata=OMIT)
    findings: tuple[Finding, ...] | None = field(default=None, metadata=OMIT)


@dataclass(frozen=True, kw_only=True)
class FigureRow(Record):
    """Median and spread ((max - min) / median) of one metric over the runs of one test and shape."""

    test: str
    shape: JsonObject
    metric: str
    runs: int
    median: float
    min: float
    max: float
    spread: float | None = None
    statistic: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparedRow(Record):
    """One metric of two sets of runs; `better` is None where the change may be noise, `p` where there are too few runs to say."""

    test: str
    shape: JsonObject
    metric: str
    a: float
    b: float
    runs: tuple[int, ...]
    change: float
    better: bool | None
    p: float | None
    note: str


@dataclass(frozen=True, kw_only=True)
class RunList(Record):
    """The runs of `results LOG --format json`; and of a result.json, as much as comparing runs needs."""

    schema: str = field(default=RESULT_SCHEMA, metadata={"schema": {"const": RESULT_SCHEMA}})
    shape: Shape | None = field(default=None, metadata=OMIT)
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class ParsedRuns(RunList):
    """The runs of logs with statistics, published results and the wire beside them."""

    summary: tuple[FigureRow, ...] = ()
    references: tuple[ReferenceRow, ...] = ()
    wire: tuple[WireRow, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class IndexRow(OfOperation):
    """As much of a SummaryRow as a history needs."""

    arm: str | None = field(default=None, metadata=OMIT)
    median_gbps: float


@dataclass(frozen=True, kw_only=True)
class IndexEntry(Record):
    """One line of index.jsonl: enough to list and plot results without opening them."""

    result: str | None = None
    created: str | None = None
    workload: str
    status: str = ""
    shape: JsonObject = field(default_factory=dict)
    bind: str | None = None
    summary: tuple[IndexRow, ...] = ()
