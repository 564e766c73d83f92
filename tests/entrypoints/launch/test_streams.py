"""Lines, capped logs and the console, on any bytes in any pieces."""

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrypoints.launch.streams import MAX_LINE, Console, Lines, RankLog

pieces = st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\n\n", b"\r\n", b""]), max_size=30)


@given(pieces)
def test_lines_do_not_depend_on_how_the_stream_is_cut(parts: list[bytes]) -> None:
    cut, whole = Lines(), Lines()
    seen = [line for part in parts for line in cut.feed(part)] + cut.finish()
    assert seen == whole.feed(b"".join(parts)) + whole.finish()
    assert b"".join(line + b"\n" for line in seen).rstrip(b"\n") == b"".join(parts).rstrip(b"\n")


@given(st.integers(MAX_LINE - 2, MAX_LINE * 3), st.integers(1000, MAX_LINE))
@settings(max_examples=30)
def test_a_long_line_keeps_its_start_and_tells_the_rest(size: int, step: int) -> None:
    data = b"x" * size + b"\nnext\n"
    lines = Lines()
    seen = [line for start in range(0, len(data), step) for line in lines.feed(data[start : start + step])]
    assert seen[-1] == b"next" and seen[0] == b"x" * min(size, MAX_LINE)
    if size > MAX_LINE:
        assert seen[1:-1] == [b"[epbox: the line goes on for %d bytes, not shown]" % (size - MAX_LINE)]


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=40), st.integers(1, 200), st.integers(1, 100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_log_keeps_head_and_tail_and_counts_the_middle(tmp_path: Path, parts: list[bytes], limit: int, tail: int) -> None:
    path = tmp_path / "rank-0.log"
    log = RankLog(path, limit, tail)
    for part in parts:
        log.write(part)
    log.close()
    data, kept = b"".join(parts), path.read_bytes()
    if len(data) <= limit + tail:
        assert kept == data and log.left_out == 0
    else:
        notice = b"\n[epbox: %d bytes of output left out here]\n" % (len(data) - limit - tail)
        assert kept == data[:limit] + notice + data[-tail:]
        assert log.left_out == len(data) - limit - tail


def test_a_console_never_waits_for_its_reader() -> None:
    reader, writer = os.pipe()
    console = Console(writer)
    sent = bytes(range(256)) * 4096
    console.write(sent)
    assert 0 < console.backlog < len(sent)
    received = b""
    while console.backlog:
        received += os.read(reader, 1 << 16)
        console.flush()
    while len(received) < len(sent):
        received += os.read(reader, 1 << 16)
    assert received == sent
    os.close(reader)
    console.write(b"nobody reads this")
    assert console.gone and console.backlog == 0
    os.close(writer)
