"""Nodes that meet over TCP on this host: late, twice, strange, silent or dying ones."""

import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from entrypoints.errors import EPBoxError, RankFailed, TimedOut, UsageError
from entrypoints.nodes import meeting, wire
from entrypoints.nodes.meeting import Meeting
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.nodes.session import Session
from entrypoints.nodes.wire import Wire, WireClosed, tell
from tests.helpers.patience import busy
from tests.helpers.supervised import LONG_S, SOON_S, UP, Supervised, end_of, marked, wait_for

Value = dict[str, Any]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1]) - 1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def node(rank: int, nodes: int, port: int, host: str = "localhost", run: str = "") -> Rendezvous:
    return Rendezvous(rank, nodes, host, port, "test", run)


def exchange(rendezvous: Rendezvous, facts: Value, timeout_s: float) -> list[Value]:
    """Every node's facts in node rank order, over a connection that is closed again."""
    with Session(rendezvous) as session:
        return session.open(facts, timeout_s, list)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_all_nodes_get_all_facts_in_rank_order(pool: ThreadPoolExecutor, port: int, host: str) -> None:
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    found = [pool.submit(exchange, node(rank, 4, port, host), {"hostname": f"h{rank}"}, busy(SOON_S)) for rank in (2, 0, 3, 1)]
    assert [future.result() for future in found] == [[{"hostname": f"h{rank}"} for rank in range(4)]] * 4


def test_a_single_node_needs_no_network() -> None:
    assert exchange(Rendezvous(), {"a": 1}, 0.1) == [{"a": 1}]


def test_a_late_master_is_waited_for_and_named(pool: ThreadPoolExecutor, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SAY_EVERY_S", 0.2)
    said: list[str] = []
    early = Session(node(1, 2, port), said.append)
    future = pool.submit(early.open, {"n": 1}, busy(SOON_S), list)
    wait_for(lambda: len(said) > 0)
    assert exchange(node(0, 2, port), {"n": 0}, busy(SOON_S)) == [{"n": 0}, {"n": 1}]
    assert future.result() == [{"n": 0}, {"n": 1}]
    early.close()
    assert any(f"waits for node 0 at localhost port {port + 1}: Connection refused" in line for line in said)


def test_an_unreachable_master_ends_in_bounded_time(port: int) -> None:
    begun = time.monotonic()
    with pytest.raises(TimedOut) as caught:
        exchange(node(1, 2, port), {}, 0.5)
    assert time.monotonic() - begun < busy(SOON_S / 2)
    assert f"localhost port {port + 1}" in str(caught.value) and "Connection refused" in str(caught.value)


def test_a_name_that_does_not_resolve_is_said(port: int) -> None:
    with pytest.raises(TimedOut, match=r"no-such-host\.invalid"):
        exchange(node(1, 2, port, "no-such-host.invalid"), {}, 0.5)


def test_missing_nodes_are_named_to_everyone(pool: ThreadPoolExecutor, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, late = busy(SOON_S), threading.Event()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (limit if late.is_set() else 0), sleep=time.sleep)
    monkeypatch.setattr(meeting, "SAY_EVERY_S", 0.1)
    monkeypatch.setattr(meeting, "time", clock)
    said: dict[int, list[str]] = {0: [], 2: []}
    sessions = {rank: Session(node(rank, 4, port), said[rank].append) for rank in said}
    futures: dict[int, Future[list[Value]]] = {rank: pool.submit(sessions[rank].open, {}, limit, list) for rank in said}
    wait_for(lambda: all("node 0 waits for node 1, 3" in "\n".join(lines) for lines in said.values()))
    late.set()
    for rank, future in futures.items():
        with pytest.raises(TimedOut) as caught:
            future.result()
        assert "node 1, 3 of 4 did not come" in str(caught.value), rank
        sessions[rank].close()


def test_strangers_do_no_harm(pool: ThreadPoolExecutor, port: int) -> None:
    master = pool.submit(exchange, node(0, 2, port), {"n": 0}, busy(SOON_S))
    idle = []
    for data in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + bytes(range(256)) * 400,
        b"",
        b"[1]\n",
        b'{"epbox": "other"}\n',
        b"{}\n",
    ):
        wait_for(lambda: _connects(port + 1))
        stranger = socket.create_connection(("127.0.0.1", port + 1))
        stranger.sendall(data)
        idle.append(stranger)
    idle[0].close()
    assert exchange(node(1, 2, port), {"n": 1}, busy(SOON_S)) == master.result() == [{"n": 0}, {"n": 1}]
    for stranger in idle:
        stranger.close()


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_two_runs_on_one_port_do_not_mix(pool: ThreadPoolExecutor, port: int) -> None:
    limit = busy(SOON_S)
    found = {run: [pool.submit(exchange, node(rank, 2, port, run=run), {"run": run}, limit) for rank in (1, 0)] for run in ("a", "b")}
    for run, futures in found.items():
        assert [future.result() for future in futures] == [[{"run": run}] * 2] * 2


def test_two_processes_with_one_node_rank(pool: ThreadPoolExecutor, port: int) -> None:
    futures = [pool.submit(exchange, node(rank, 3, port), {}, busy(SOON_S)) for rank in (0, 1, 1)]
    errors = [future.exception() for future in futures]
    assert all(isinstance(error, EPBoxError) for error in errors)
    assert isinstance(errors[0], UsageError) and "two processes call themselves node 1" in str(errors[0])


def test_nodes_that_count_differently(pool: ThreadPoolExecutor, port: int) -> None:
    master = pool.submit(exchange, node(0, 2, port), {}, busy(SOON_S))
    with pytest.raises(UsageError, match="counts 3 nodes, node 0 counts 2"):
        exchange(node(1, 3, port), {}, busy(SOON_S))
    assert isinstance(master.exception(), UsageError)


def test_a_restarted_node_takes_its_place(pool: ThreadPoolExecutor, port: int) -> None:
    master = pool.submit(exchange, node(0, 3, port), {"n": 0}, busy(SOON_S))
    first = Session(node(1, 3, port))
    Meeting(first.rendezvous, first.report, first.token, first.peers).join(time.monotonic() + busy(SOON_S), busy(SOON_S))
    tell(first.peers[0].wire, wire.Contribution({"n": "dies"}))
    first.close()
    others = [pool.submit(exchange, node(rank, 3, port), {"n": rank}, busy(SOON_S)) for rank in (1, 2)]
    assert master.result() == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [other.result() for other in others] == [master.result()] * 2


def pair(pool: ThreadPoolExecutor, port: int) -> tuple[Session, Session]:
    sessions = Session(node(0, 2, port)), Session(node(1, 2, port))
    futures: list[Future[list[Value]]] = [pool.submit(session.open, {}, busy(SOON_S), list) for session in sessions]
    for future in futures:
        future.result()
    return sessions


def test_results_are_gathered_and_large(pool: ThreadPoolExecutor, port: int) -> None:
    sessions = pair(pool, port)
    big = {"log": "x" * 3_000_000}
    futures: list[Future[list[Value]]] = [pool.submit(session.gather, big, busy(SOON_S), list) for session in sessions]
    assert [future.result() for future in futures] == [[big, big]] * 2
    for session in sessions:
        session.close()


def test_a_lost_node_is_noticed(pool: ThreadPoolExecutor, port: int) -> None:
    first, second = pair(pool, port)
    assert first.lost() is None and second.lost() is None
    second.close()
    wait_for(lambda: first.lost() is not None)
    lost = first.lost()
    assert lost is not None and "node 1" in lost.abort and "is gone" in lost.abort and lost.exit_code == 4
    first.close()


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_node_that_leaves_before_its_results(pool: ThreadPoolExecutor, port: int, leaver: int) -> None:
    sessions = pair(pool, port)
    sessions[leaver].close()
    with pytest.raises(RankFailed, match=f"node {leaver} .* is gone"):
        sessions[1 - leaver].gather({}, busy(SOON_S), list)
    sessions[1 - leaver].close()


def test_a_silent_node_ends_the_gathering_in_bounded_time(pool: ThreadPoolExecutor, port: int) -> None:
    sessions = pair(pool, port)
    with pytest.raises(TimedOut, match=r"node 1 .* did not answer within 0.3 s"):
        sessions[0].gather({}, 0.3, list)
    for session in sessions:
        session.close()


def test_after_a_failure_what_there_is_can_be_gathered(pool: ThreadPoolExecutor, port: int) -> None:
    first, second = pair(pool, port)
    second.abort("rank 9 exited with code 1")
    wait_for(lambda: first.lost() is not None)
    lost = first.lost()
    assert lost is not None and "rank 9 exited with code 1" in lost.abort
    futures = [pool.submit(session.gather, {"n": i}, busy(SOON_S), list) for i, session in enumerate((first, second))]
    assert [future.result() for future in futures] == [[{"n": 0}, {"n": 1}]] * 2
    first.close()
    second.close()


def fleet(supervised: Supervised, port: int, codes: list[str], **options: Any) -> list[Any]:
    return [
        supervised.start(code, node_rank=rank, nodes=len(codes), port=port, meet_s=busy(SOON_S), ranks=2, options=options)
        for rank, code in enumerate(codes)
    ]


IDLE = f"import os, time; {UP}; time.sleep({LONG_S})"


def test_two_supervised_nodes(supervised: Supervised, port: int) -> None:
    runs = [end_of(run, 2 * SOON_S) for run in fleet(supervised, port, ["print('hi')"] * 2)]
    assert [json.loads(out)["exit_code"] for out, _ in runs] == [0, 0]
    assert json.loads(runs[0][0])["everyone"] == [{"ranks": 2}, {"ranks": 2}]
    assert "[rank 3] hi" in runs[1][1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_node_that_dies_ends_the_other_soon(supervised: Supervised, port: int, victim: int) -> None:
    runs = fleet(supervised, port, [IDLE] * 2)
    supervised.wait_up(4)
    runs[victim].kill()
    output, _ = end_of(runs[1 - victim])
    outcome = json.loads(output)
    assert outcome["exit_code"] == 4 and f"node {victim} " in outcome["cause"] and "is gone" in outcome["cause"]
    runs[victim].communicate()
    wait_for(lambda: marked(supervised.mark) == [])


def test_a_rank_that_dies_on_one_node_is_named_on_all(supervised: Supervised, port: int) -> None:
    others = "len(os.listdir(os.environ['EPBOX_TEST_UP'])) == 4"
    dies = "import os, sys, time\nif os.environ['EPBOX_RANK'] == '3':\n"
    dies += f"    while not {others}: time.sleep(0.02)\n    sys.exit(9)\ntime.sleep({LONG_S})"
    outcomes = [json.loads(end_of(run, 2 * SOON_S)[0]) for run in fleet(supervised, port, [IDLE, dies, IDLE])]
    assert [outcome["exit_code"] for outcome in outcomes] == [4, 4, 4]
    assert all("rank 3 " in outcome["cause"] and "code 9" in outcome["cause"] for outcome in outcomes), outcomes


def test_a_node_is_not_hung_while_another_one_prints(supervised: Supervised, port: int) -> None:
    """Only one rank of all prints in many programs; node 2 hears of node 1 over node 0."""
    silence = busy(1)
    speaks = "import os, time\nwhile len(os.listdir(os.environ['EPBOX_TEST_UP'])) < 4: print('step'); time.sleep(0.2)"
    silent = f"import os, time; time.sleep({1.25 * silence}); {UP}"
    runs = fleet(supervised, port, [silent, speaks, silent], timeout_s=silence)
    outcomes = [json.loads(end_of(run, 2 * SOON_S)[0]) for run in runs]
    assert [outcome["exit_code"] for outcome in outcomes] == [0, 0, 0], outcomes


def test_silence_of_all_nodes_is_a_hang(supervised: Supervised, port: int) -> None:
    speaks = f"import time; print('step'); time.sleep({LONG_S})"
    outcomes = [json.loads(end_of(run, 2 * SOON_S)[0]) for run in fleet(supervised, port, [IDLE, speaks], timeout_s=1.0)]
    assert [outcome["exit_code"] for outcome in outcomes] == [5, 5], outcomes
    assert all("no output of any rank for 1 s" in outcome["cause"] for outcome in outcomes)


MESSAGES = (
    wire.Greeting("epbox.session/1", "run", 1, 2, "host/1/ab"),
    wire.Welcome("host/0/cd"),
    wire.Busy("later"),
    wire.Fatal("never"),
    wire.Note("for people"),
    wire.Beat(3),
    wire.Abort("why", 5),
    wire.Contribution({"n": [1, None]}),
    wire.Contribution(None),
    wire.Everything({"all": {"value": 1}}),
)


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_a_message_is_read_as_it_was_written(message: wire.Message) -> None:
    line = wire.encode(message)
    assert line.endswith(b"\n") and wire.decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET / HTTP/1.1",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b'{"other": 1}',
        b'{"abort": "why"}',
        b'{"abort": "why", "exit_code": "4"}',
        b'{"abort": "why", "exit_code": true}',
        b'{"beat": null}',
        b'{"epbox": "epbox.session/1", "run": "", "node_rank": "1", "nodes": 2, "token": "x"}',
        b'{"value": 1',
        b"[" * 60_000,
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(WireClosed, match="does not speak this protocol"):
        wire.decode(line)


def test_last_words_are_read_even_from_a_node_that_reset_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = Wire(socket.create_connection(server.getsockname()))
        theirs, _ = server.accept()
    theirs.sendall(b'{"abort": "why", "exit_code": 4}\n')
    ours.send(wire.Note("never read"))
    wait_for(lambda: bool(select.select([theirs], [], [], 0)[0]))
    theirs.close()  # with data unread: the kernel answers by a reset
    wait_for(lambda: not ours.alive())
    assert ours.receive(time.monotonic() + SOON_S) == wire.Abort("why", 4)
    with pytest.raises(WireClosed):
        ours.receive(time.monotonic() + SOON_S)
    ours.close()


def test_closing_with_unread_data_does_not_reset_the_other_side() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = Wire(socket.create_connection(server.getsockname()))
        theirs, _ = server.accept()
    theirs.sendall(b'{"unread": 1}\n')
    wait_for(lambda: bool(select.select([ours], [], [], 0)[0]))
    ours.close()
    assert theirs.recv(1) == b""  # an orderly end, no ECONNRESET
    theirs.close()


def test_a_digest_reaches_every_node_in_place_of_all_objects(pool: ThreadPoolExecutor, port: int) -> None:
    seen: list[Value] = []

    def digest(values: list[Value]) -> Value:
        seen.extend(values)
        return {"sum": sum(value["n"] for value in values)}

    sessions = pair(pool, port)
    futures = [pool.submit(session.gather, {"n": 10 + i}, busy(SOON_S), digest) for i, session in enumerate(sessions)]
    assert [future.result() for future in futures] == [{"sum": 21}] * 2
    assert seen == [{"n": 10}, {"n": 11}], "made once, by node 0"
    assert Session(node(0, 1, port)).gather({"n": 5}, 0.1, digest) == {"sum": 5}
    for session in sessions:
        session.close()


def test_other_nodes_wait_for_the_end_of_node_0_and_not_longer(pool: ThreadPoolExecutor, port: int) -> None:
    first, second = pair(pool, port)
    waiting = pool.submit(second.outlast_node_0, busy(SOON_S))
    first.beat()
    time.sleep(0.3)
    assert not waiting.done(), "a beat is no end"
    first.close()
    waiting.result(busy(SOON_S))
    # Node 0 itself, and a node that has lost it, have nobody to wait for; a node 0 that hangs is not waited for for ever.
    started = time.monotonic()
    first.outlast_node_0(LONG_S)
    second.close()
    second.outlast_node_0(LONG_S)
    assert time.monotonic() - started < SOON_S
    first, second = pair(pool, port + 2)
    second.outlast_node_0(0.3)
    first.close()
    second.close()
