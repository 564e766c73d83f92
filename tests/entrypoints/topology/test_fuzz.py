"""Cut, shuffled and mutated input: a Topology, or a UsageError that names the file; never anything else, never for long."""

import gzip
import io
import json
import tarfile
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoints.drawing.topology import draw
from entrypoints.errors import NoPlan, UsageError
from entrypoints.placement.plan import PlanOptions, make_plan
from entrypoints.topology.document import to_document
from entrypoints.topology.load import from_bytes
from entrypoints.topology.sysfs import read_sysfs
from entrypoints.topology.tables import describe
from tests.entrypoints.topology.conftest import DATA
from tests.helpers.sysfs_tree import GpuSpec, HcaSpec, Host, NodeSpec, in_memory, parts

HOST = Host(
    (NodeSpec(0, (0, 1, 4, 5)), NodeSpec(1, (2, 3, 6, 7))),
    tuple(
        GpuSpec(f"0000:{0x11 + 16 * i:02x}:00.0", (f"pci0000:{0x10 + 16 * i:02x}", f"0000:{0x10 + 16 * i:02x}:01.0"), i) for i in range(2)
    ),
    tuple(
        HcaSpec(f"0000:{0x12 + 16 * i:02x}:00.0", (f"pci0000:{0x10 + 16 * i:02x}", f"0000:{0x10 + 16 * i:02x}:02.0"), i, name=f"mlx5_{i}")
        for i in range(2)
    ),
    siblings=((0, 4), (1, 5), (2, 6), (3, 7)),
)


def tarball() -> bytes:
    files, links = parts(HOST)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(f"h/{path}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for path, target in links.items():
            member = tarfile.TarInfo(f"h/{path}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return buffer.getvalue()


SEEDS = {
    "matrix": (DATA / "ansi-glued-prompt.txt").read_bytes(),
    "old matrix": (DATA / "old-driver-names.txt").read_bytes(),
    "nccl": (DATA / "nccl-dump.xml").read_bytes(),
    "json": json.dumps(to_document(read_sysfs(in_memory(HOST), "m")), indent=1).encode(),
    "tar": tarball(),
    "tar.gz": gzip.compress(tarball(), mtime=0),
}
PIECES = [
    b"\0",
    b"9" * 400,
    b"-1",
    b"\xff",
    b" X ",
    b"GPU0",
    b"<",
    b'"',
    b"{",
    b"[",
    b"null",
    b"1e999",
    b"99999999999",
    b"\xc2\xb2",
    b"\xd9\xa3",
    b"\n",
    b"\t",
    b"0x",
]

edits = st.lists(
    st.tuples(
        st.sampled_from(["cut", "drop", "insert", "byte", "copy", "lines"]), st.floats(0, 1), st.floats(0, 1), st.sampled_from(PIECES)
    ),
    min_size=1,
    max_size=12,
)


def mutate(data: bytes, steps: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, first, second, piece in steps:
        at = int(first * len(data))
        if kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + 1 + int(second * 60) :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "byte":
            data = data[:at] + bytes([int(second * 255)]) + data[at + 1 :]
        elif kind == "copy":
            data = data[:at] + data[int(second * len(data)) :][:200] + data[at:]
        else:
            lines = data.split(b"\n")
            turn = int(second * len(lines))
            data = b"\n".join(lines[turn:] + lines[:turn][::-1])
    return data


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(SEEDS)), edits)
def test_damaged_input_never_surprises(seed: str, steps: list[tuple[str, float, float, bytes]]) -> None:
    data = mutate(SEEDS[seed], steps)
    start = time.process_time()
    try:
        topology = from_bytes(data, "input")
    except UsageError as error:
        assert str(error).startswith("input")
        return
    json.dumps(to_document(topology))
    describe(topology)
    try:
        plan = make_plan(topology, PlanOptions(environ={}))
    except (NoPlan, UsageError):
        plan = None
    draw(topology, plan)
    assert time.process_time() - start < 2


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_bytes_of_any_kind(data: bytes) -> None:
    try:
        from_bytes(data, "input")
    except UsageError as error:
        assert str(error).startswith("input")
