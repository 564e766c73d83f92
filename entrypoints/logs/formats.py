"""What DeepEP's tests print, generation by generation.

Read from tests/test_{internode,intranode,low_latency}.py between 1.0.0 and 2.1.0 and tests/elastic at 2.1.0:
internode A (until 2025-07-14) bandwidths alone, B (to v1.2.1) `transmit: .. us, notify: .. us`, C (2.x) `notify + transmit us`.
"""

import re

#: A line without any of these says nothing about a result.
INTERESTING = re.compile(
    rb"\[t(?:uning|esting)\]|\[alltoall\] result |"
    rb"\bpassed|GB/s|\] Dispatch |\[(?:config|layout)\]|Config:|barrier time|> (?:Rank|Testing|E|T|#)|, t: "
)

_NUMBER = r"(\d+(?:\.\d+)?)"
#: Of two bandwidths over the network (Paddle's port) the first is DeepEP's own, which counts local traffic too.
_BANDWIDTHS = rf"(?:{_NUMBER} GB/s \(RDMA \+ NVL\), )?(?:{_NUMBER}(?: GB/s)? \(RDMA\), )?{_NUMBER} GB/s \(NVL\)"
CONFIG = re.compile(r"\[config\] ([a-z_]+=\d+(?:, [a-z_]+=\d+)*)")
TESTING = re.compile(
    r"\[testing\] Running with (FP8|BF16), (with|without) top-k \(async=(True|False|0|1), previous=(True|False|0|1)\)", re.IGNORECASE
)
PASSED = re.compile(r"\bpassed\b")
TUNING = re.compile(
    r"\[tuning\] SMs (\d+), NVL chunk (\d+|default)(?:, RDMA chunk (\d+))?[:,]"
    rf"(?P<times>[^\[]*?){_BANDWIDTHS}(?P<after>[^\[]*)"
)
BEST = re.compile(
    r"\[tuning\] Best (dispatch|combine)(?: \((FP8|BF16)\))?: SMs (\d+), NVL chunk (\d+|default)(?:, RDMA chunk (\d+))?[:,]"
    rf"(?P<times>[^\[]*?){_BANDWIDTHS}(?P<after>[^\[]*)"
)
#: The same on bytes, for the lines of which a log has the most; they run to the end of the line.
TUNING_BYTES = re.compile(
    rb"\[tuning\] SMs \d+, NVL chunk (\d+|default)(?:, RDMA chunk (\d+))?"
    rb"(: \d+ \+ \d+ us, |: |, transmit: [\d.]+ us, notify: [\d.]+ us, BW: )"
    rb"(?:(\d+\.\d+) GB/s \(RDMA\), )?(\d+\.\d+) GB/s \(NVL\)([^\[\n]*)(?:\n|\Z)"
)
#: The time in a prefix, which makes it another one on every line.
STAMP_BYTES = re.compile(rb"(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?")
TESTING_BYTES = re.compile(
    rb"\[testing\] Running with (FP8|BF16), (with|without) top-k \(async=(True|False), previous=(True|False)\) \.\.\. passed[ \r]*(?:\n|\Z)"
)
TRANSMIT_NOTIFY = re.compile(rf"transmit: {_NUMBER} us, notify: {_NUMBER} us")
NOTIFY_PLUS_TRANSMIT = re.compile(rf"{_NUMBER} \+ {_NUMBER} us")
TOTAL_TIME = re.compile(rf"(?:t[:=] ?|, |time: ){_NUMBER} ?(us|ms|s)\b")
#: Ascend's port has no sweep: one line an operation, over HCCS and between nodes RDMA.
ASCEND = re.compile(
    rf"(Dispatch|Combine)(?: \((FP8|INT8|BF16)[^)]*\)| \([^)]*\))?[^|\[(]*?[ =]{_NUMBER} GB/s \(HCCS\)"
    rf"(?:, {_NUMBER} GB/s \(RDMA\))?(?:, avg_t: {_NUMBER} us)?(?:, notify_t: {_NUMBER} us)?"
)

LL_BOTH = re.compile(
    rf"\[rank *(\d+) *\] Dispatch \+ combine bandwidth: {_NUMBER} GB/s, avg_t={_NUMBER} us, min_t={_NUMBER} us, max_t={_NUMBER} us"
)
LL_EACH = re.compile(
    rf"\[rank *(\d+) *\] Dispatch bandwidth: {_NUMBER} GB/s, avg_t={_NUMBER} us *\| *Combine bandwidth: {_NUMBER} GB/s, avg_t={_NUMBER} us"
)
_PHASES = rf"(?:{_NUMBER} = )?{_NUMBER}(?: \+ {_NUMBER})? us"
LL_PHASES = re.compile(rf"\[rank *(\d+) *\] Dispatch send/recv time: {_PHASES} *\| *Combine send/recv time: {_PHASES}")
LL_ANY = re.compile(r"Dispatch \+ combine bandwidth|Dispatch bandwidth|send/recv time")

#: The same on bytes, to the end of their lines; numbers are made of bytes as well as of text.
LL_BYTES = tuple(re.compile(pattern.pattern.encode() + rb"[ \r]*(?:\n|\Z)") for pattern in (LL_BOTH, LL_EACH, LL_PHASES))

#: What only DeepEP 2's tests print: enough to begin a run, where a word of it (`Config:`, `STEP:`) is anyone's.
EP_ANY = re.compile(
    r"(?<![\w.])EP: *\d+/ *\d+ ?[|,]|(?<![-=])> Rank(?:s: \d+| *\d+/ *\d+ \||: *\d+/)|> Testing with do_handle_copy|^\s*Config:\s*$"
)
EP_RANKS = re.compile(r"> Ranks: (\d+)(?: x (\d+))?")
EP_EXPERTS = re.compile(r"> Experts: (\d+)/(\d+)")
EP_TOKENS = re.compile(r"> Tokens: (\d+) \(max: (\d+)\), hidden: (\d+)")
EP_SMS = re.compile(r"> #SM: (\d+), #QPs: (\d+)/(\d+)")
EP_CASE = re.compile(r"> Testing with (do_handle_copy=.*?) \.\.\.")
EP_LINE = re.compile(
    r"([*\-#@+]|\[[\w.-]+\]) EP: *(\d+)/ *(\d+) \| ((?:expanded |cached |reduced )?(?:dispatch|combine)): "
    rf"{_NUMBER} GB/s \(SO\), {_NUMBER} GB/s \(SU\), {_NUMBER} us, {_NUMBER} bytes"
    rf"(?: \| (?:copy|reduce): {_NUMBER} GB/s, {_NUMBER} us|\s*$)"
)
EP_LINE_BYTES = re.compile(rb" *" + EP_LINE.pattern.encode().removesuffix(rb"|\s*$)") + rb")[ \r]*(?:\n|\Z)")
EP_BARRIER = re.compile(rf"> EP: *(\d+)/ *(\d+), barrier time: {_NUMBER} us")
EP_AGRS = re.compile(
    rf"> Rank: *(\d+)/ *(\d+) \| (\d+ x \d+ \w+) \| avg: {_NUMBER} us(?:, {_NUMBER} GB/s)? ?\(inplace=(\d), batched=(\d)\)"
)
EP_PP = re.compile(
    rf"> EP: *(\d+)/ *(\d+) \| hide=(\d), concurrent=(\d+) \| send: {_NUMBER} us, {_NUMBER} GB/s \| recv: {_NUMBER} us, {_NUMBER} GB/s"
)
EP_ENGRAM = re.compile(rf"> Rank *(\d+)/ *(\d+) \| issue: {_NUMBER} us, wait: {_NUMBER} us, {_NUMBER} GB/s")
