"""One TCP connection per node to node 0, kept for the run: facts before, results after, and a dead node noticed between.

Messages are JSON objects, one a line.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from entrypoints.errors import EPBoxError, PreflightFailed, RankFailed, TimedOut, UsageError
from entrypoints.nodes.meeting import SAY_EVERY_S, Meeting
from entrypoints.nodes.wire import Wire, WireClosed, encode, tell
from entrypoints.output import say

if TYPE_CHECKING:
    from entrypoints.nodes.rendezvous import Rendezvous

#: How often a node tells the others, at most, that its ranks print.
BEAT_S = 1.0
Digest = Callable[[list[dict[str, Any]]], dict[str, Any]]
#: A point in time (monotonic clock) that may move while one waits for it.
Until = Callable[[], float]
ERRORS = {error.exit_code: error for error in (UsageError, PreflightFailed, RankFailed, TimedOut)}


def _never() -> float:
    return float("inf")


class Session:
    """The nodes of a run, all-gathered over node 0. Every wait has a bound and says whom it waits for."""

    def __init__(self, rendezvous: "Rendezvous", report: Callable[[str], None] = say) -> None:
        self.rendezvous, self.report = rendezvous, report
        # Two containers may share host name and pid; the last part tells them apart.
        self.token = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(3).hex()}"
        self.peers: dict[int, Wire] = {}
        self.names: dict[int, str] = {}
        self._lost: tuple[str, int] | None = None
        #: When another node last said that its ranks print (monotonic clock), and when this one said so.
        self.heard = self._beaten = float("-inf")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, facts: dict[str, Any], timeout_s: float, digest: Digest | None = None) -> Any:
        """Meet the other nodes; every node's facts in node rank order, or node 0's digest of them (see gather).

        Raises TimedOut with the missing nodes named, UsageError when two processes claim one node rank.
        """
        there = self.rendezvous
        if there.nodes == 1:
            return digest([facts]) if digest else [facts]
        deadline = time.monotonic() + timeout_s
        meeting = Meeting(there, self.report, self.token, self.peers, self.names)
        if there.node_rank == 0:
            meeting.welcome(deadline, timeout_s)
        else:
            meeting.join(deadline, timeout_s)
        return self.gather(facts, max(1.0, deadline - time.monotonic()), digest)

    def gather(self, value: dict[str, Any], timeout_s: float, digest: Digest | None = None, until: Until = _never) -> Any:
        """All-gather one object a node, in node rank order. Raises TimedOut, or RankFailed when a node is lost.

        With a digest, node 0 alone sees all objects, and every node gets what it makes of them: records of N nodes sent to N nodes
        would be N squared. `until` may end the wait before the timeout: it is asked again and again, for a stop that comes meanwhile.
        """
        there = self.rendezvous
        if there.nodes == 1:
            return digest([value]) if digest else [value]
        deadline = time.monotonic() + timeout_s
        if there.node_rank:
            # Should node 0 be gone, _receive says so.
            tell(self.peers[0], {"value": value})
            return self._receive(0, deadline, timeout_s, until)["all"]
        values = {0: value}
        for node in sorted(self.peers):
            try:
                values[node] = self._receive(node, deadline, timeout_s, until)["value"]
            except EPBoxError as error:
                # The others learn the cause; a closed connection alone would make them blame node 0.
                self._broadcast(str(error), error.exit_code, but=node)
                raise
        everything = [values[node] for node in range(there.nodes)]
        answer = digest(everything) if digest else everything
        line = encode({"all": answer})
        for wire in self.peers.values():
            with suppress(WireClosed):
                wire.send_line(line)
        return answer

    def lost(self) -> tuple[str, int] | None:
        """For the supervisor, without waiting: why the run cannot go on and the exit code of that, or None."""
        for node, wire in self._readable():
            if self._lost is not None:
                return self._lost
            try:
                message = wire.peek()
                while message is not None and "beat" in message:
                    wire.take()
                    self._pass_on(node)
                    message = wire.peek()
            except WireClosed as error:
                self._lost = (f"{self._who(node)} is gone: {error}", RankFailed.exit_code)
            else:
                if message is not None and "abort" in message:
                    wire.take()
                    self._lost = (str(message["abort"]), int(message.get("exit_code", RankFailed.exit_code)))
            if self._lost is not None and self.rendezvous.node_rank == 0:
                self._broadcast(*self._lost, but=node)
        return self._lost

    def _readable(self) -> list[tuple[int, Wire]]:
        """Peers that have something to say: one call for all, for node 0 of a large run is asked often."""
        poll = select.poll()
        for wire in self.peers.values():
            poll.register(wire, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(0)}
        return [(node, wire) for node, wire in self.peers.items() if wire.waiting or wire.fileno() in ready]

    def beat(self) -> None:
        """Tell the other nodes, once in BEAT_S, that ranks print here: often one rank of all prints, and the rest wait for it."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_S:
            self._beaten = now
            for wire in self.peers.values():
                tell(wire, {"beat": self.rendezvous.node_rank})

    def _pass_on(self, origin: int) -> None:
        """A beat came: nodes know only node 0, which tells the others."""
        self.heard = time.monotonic()
        if self.rendezvous.node_rank == 0 and self.heard - self._beaten >= BEAT_S:
            self._beaten = self.heard
            for node, wire in self.peers.items():
                if node != origin:
                    tell(wire, {"beat": origin})

    def abort(self, cause: str, exit_code: int = RankFailed.exit_code) -> None:
        """Tell all other nodes that this one has failed, so that they end at once and not by their own timeout."""
        if self._lost is None:
            self._lost = (f"node {self.rendezvous.node_rank} ({socket.gethostname()}): {cause}", exit_code)
            self._broadcast(*self._lost)

    def outlast_node_0(self, timeout_s: float, until: Until = _never) -> None:
        """Wait until node 0 has closed its end: it writes the record of all, and a launcher may kill the rest when a first node fails."""
        deadline = time.monotonic() + timeout_s
        with suppress(WireClosed, KeyError):
            while (now := time.monotonic()) < min(deadline, until()) and self.rendezvous.node_rank:
                self.peers[0].receive(min(deadline, now + 1.0))

    def close(self) -> None:
        for wire in self.peers.values():
            wire.close()
        self.peers.clear()

    def descriptors(self) -> list[int]:
        return [wire.fileno() for wire in self.peers.values()]

    def _broadcast(self, cause: str, exit_code: int, but: int | None = None) -> None:
        for node, wire in self.peers.items():
            if node != but:
                tell(wire, {"abort": cause, "exit_code": exit_code})

    def _receive(self, node: int, deadline: float, timeout_s: float, until: Until) -> dict[str, Any]:
        """The next message of one node."""
        said = time.monotonic()
        who = self._who(node)
        while True:
            now = time.monotonic()
            try:
                message = self.peers[node].receive(min(deadline, now + 1.0))
            except WireClosed as error:
                raise RankFailed(f"{who} is gone: {error}", hint="its own log says why") from None
            if message is not None:
                if "abort" in message and self._lost is not None:
                    # The run is known to have failed; what is gathered now is what each node has of it.
                    continue
                if "abort" in message:
                    raise ERRORS.get(message.get("exit_code", 4), RankFailed)(str(message["abort"]))
                if "beat" in message:
                    self._pass_on(node)
                    continue
                if "note" not in message:
                    return message
                self.report(str(message["note"]))
                said = time.monotonic()
            now = time.monotonic()
            if now >= until():
                raise TimedOut(f"{who} had not answered when this run was stopped")
            if now >= deadline:
                raise TimedOut(f"{who} did not answer within {timeout_s:g} s", hint="look at that node, or allow more time")
            if now - said >= SAY_EVERY_S:
                said = now
                self.report(f"waiting for {who}, {deadline - now:.0f} s left")

    def _who(self, node: int) -> str:
        name = self.names.get(node, "")
        return f"node {node} ({name.partition('/')[0] or self.rendezvous.master_addr})"


def exchange(rendezvous: "Rendezvous", facts: dict[str, Any], timeout_s: float) -> list[dict[str, Any]]:
    """All-gather one JSON object a node over a connection that is closed again. See Session for a run's whole length."""
    with Session(rendezvous) as session:
        return list(session.open(facts, timeout_s))
