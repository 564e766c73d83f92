"""The words and patterns that the scanner looks for in every line, apart from the signatures."""

import re

from entrypoints.diagnosis.signatures import trie

#: A line without any of these is in no signature (lower case, digits are taken out before).
_WORDS = (
    "error|fail|warn|timeout|timed out|time out|no such| not |not_|n't|cannot|could|undefined|unresolved|multiple def|mismatch"
    "|unable|invalid|kill|signal|sigterm|sigabrt|sigsegv|sigbus|sigint|xid|nvshmem|nccl gin|ncclgin|nccl compile|gb/s|dev_id"
    "|traceback|abort|ibgda|mlx|hca|ibv_|libfabric|gdr|nvcc|cuda|torch|num_rc|gid|lock|ulimit|peer|oom|memory|bus |space|address"
    "|unsupported|assert|initialized|hang|hung|stuck|exit|refused|driver|illegal|terminat|progress|module|atomic|no devices|no nics"
    "|no active|rdma|efa|roce|retry|retries|duplicate|corrupt|num_recv|handler|library|gpu |nvgpu|eaddr|errno|variable|socket"
    "|provider|fallback|share err|status|transport|p2p|pp access|fault|ranks|dispatch|intranode|no output|silent|initiated|ofed"
    "|forward compat|cupti|device|store|unsatisf|fatbin|watchdog|heartbeat|interface|truncated|version| gin|compil|buffer"
    "|kernel image|pes on all"
    "|teams|kill|event|xid_errors|open files|emfile|tx_depth|exception|deadline|evict|due to|off the bus|nv_err|nccl_gin"
    "|link_layer|cancel|interrupt|cuobjdump|combine|ep: |modify|disabled|qp|ibverbs|not found|[config]"
)


INTERESTING = re.compile(trie(_WORDS.split("|")).encode())
#: Numbers that change the meaning of a line; they are part of what is remembered of it.
CODES = re.compile(rb"(?:status|error|errno|code|with|exitcode|signal|cuda|xid)[ :=(]{1,4}-?(\d{1,5})", re.IGNORECASE)
FAILED = re.compile(
    rb"traceback|error:|exited with|exit(?:ed with)? (?:code|status):? [1-9]|exitcode|terminating process|terminate called"
    rb"|accessible, exiting|core dumped|\baborted\b"
    rb"|transport map failed|initialization failed|initialize any transports|non-zero status|null value|cuda error|timed out"
    rb"|watchdog (?:caught|thread|got|timeout \()|error status: \d|build stopped|\bkilled\b|initialization has completed"
    rb"|caught signal|\bbacktrace\b|\bsigterm\b|segmentation|\bfatal\b(?!: not a git)|assertion|signal \d+|a rank failed",
    re.IGNORECASE,
)
#: Lines that a logger calls information or a warning, or that say themselves that it goes on. What they tell is no failure, and
#: behind what is one. NVSHMEM's and NCCL's own `WARN` is none of these: it is often all they say of a failure.
IN_PASSING = re.compile(
    rb"\A.{0,160}?(?<!NVSHMEM )\b(?:INFO|DEBUG|WARNING|NOTICE)\b(?!: [A-Z])|pip's dependency resolver"
    rb"|[Ii]gnor(?:e|ed|ing) (?:the )?(?:import )?(?:error|exception)|Exception ignored in",
    re.DOTALL,
)
ERROR_LINE = re.compile(
    rb"^\s*(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Failed)\b|error:|fatal|\bERROR\b|failed|cannot |abort|assert|panic|core dumped|killed",
    re.IGNORECASE,
)
NOT_AN_ERROR = re.compile(
    rb"\bINFO\b|\bDEBUG\b|not a git repo|pip's dependency resolver|\b0 errors?\b|no errors?|errors?[ =:]+0\b|previous_event|warn",
    re.IGNORECASE,
)
FINISH = re.compile(
    rb"\[tuning\] Best combine|Combine bandwidth:|Combine send/recv time|Dispatch \+ combine bandwidth|[@+] EP: |epbox.*\bok\b"
)
DEV_ID = re.compile(rb"(?:(\S+?):(\d+):\d+ \[(\d+)\] NVSHMEM INFO )?.*?setting dev_id = (\d+)")
HANDLER = re.compile(rb"NIC handler will be (GPU|CPU)[^\n]{0,40}")
EXCEPTION = re.compile(r"(?:\w+\.)*\w+(?:Error|Exception|Interrupt|Exit|Failed|Warning)?(?::|$)")
