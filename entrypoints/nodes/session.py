"""One TCP connection per node to node 0, kept for the run: facts before, results after, and a dead node noticed between."""

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from entrypoints.errors import EPBoxError, PreflightFailed, RankFailed, TimedOut, UsageError
from entrypoints.nodes.meeting import SAY_EVERY_S, Meeting, Peer
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.nodes.wire import Abort, Beat, Contribution, Everything, Message, Note, WireClosed, encode, tell
from entrypoints.output import say

#: How often a node tells the others, at most, that its ranks print.
BEAT_S = 1.0
#: A point in time (monotonic clock) that may move while one waits for it.
Until = Callable[[], float]
ERRORS = {error.exit_code: error for error in (UsageError, PreflightFailed, RankFailed, TimedOut)}
Given = TypeVar("Given")
Made = TypeVar("Made")
Awaited = TypeVar("Awaited", Contribution, Everything)


def _never() -> float:
    return float("inf")


class Session:
    """The nodes of a run, all-gathered over node 0. Every wait has a bound and says what it waits for."""

    def __init__(self, rendezvous: Rendezvous, report: Callable[[str], None] = say) -> None:
        self.rendezvous, self.report = rendezvous, report
        # Two containers may share host name and pid; the last part tells them apart.
        self.token = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(3).hex()}"
        self.peers: dict[int, Peer] = {}
        self._lost: Abort | None = None
        #: When another node last said that its ranks print (monotonic clock), and when this one said so.
        self.heard = self._beaten = float("-inf")

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, facts: Given, timeout_s: float, digest: Callable[[list[Given]], Made]) -> Made:
        """Meet the other nodes, and gather everybody's facts (see gather).

        Raises TimedOut with the missing nodes named, UsageError when two processes claim one node rank.
        """
        deadline = time.monotonic() + timeout_s
        if self.rendezvous.nodes > 1:
            meeting = Meeting(self.rendezvous, self.report, self.token, self.peers)
            if self.rendezvous.node_rank == 0:
                meeting.welcome(deadline, timeout_s)
            else:
                meeting.join(deadline, timeout_s)
        return self.gather(facts, max(1.0, deadline - time.monotonic()), digest)

    def gather(self, value: Given, timeout_s: float, digest: Callable[[list[Given]], Made], until: Until = _never) -> Made:
        """All-gather: what node 0's `digest` makes of the values of all nodes, in node rank order. Every node gets the same.

        Values and what is made of them are JSON. Node 0 alone sees all values: records of N nodes sent to N nodes would be N squared.
        `until` may end the wait before the timeout: it is asked again and again, for a stop that comes meanwhile.
        Raises TimedOut, or RankFailed when a node is lost.
        """
        node = self.rendezvous
        if node.nodes == 1:
            return digest([value])
        deadline = time.monotonic() + timeout_s
        if node.node_rank:
            # Should node 0 be gone, _receive says so.
            tell(self.peers[0].wire, Contribution(value))
            made: Made = self._receive(0, Everything, deadline, timeout_s, until).all
            return made
        values = {0: value}
        for rank in sorted(self.peers):
            try:
                values[rank] = self._receive(rank, Contribution, deadline, timeout_s, until).value
            except EPBoxError as error:
                # The others learn the cause; a closed connection alone would make them blame node 0.
                self._tell_all(Abort(str(error), error.exit_code), but=rank)
                raise
        made = digest([values[rank] for rank in range(node.nodes)])
        line = encode(Everything(made))
        for peer in self.peers.values():
            with suppress(WireClosed):
                peer.wire.send_line(line)
        return made

    def lost(self) -> Abort | None:
        """The reason why the run cannot go on, or None; for the supervisor, without waiting."""
        for node, peer in self._readable().items():
            if self._lost is not None:
                return self._lost
            try:
                message = peer.wire.peek()
                while isinstance(message, Beat):
                    peer.wire.take()
                    self._pass_on(node)
                    message = peer.wire.peek()
            except WireClosed as error:
                self._lost = Abort(f"{self._name(node)} is gone: {error}", RankFailed.exit_code)
            else:
                if isinstance(message, Abort):
                    peer.wire.take()
                    self._lost = message
            if self._lost is not None and self.rendezvous.node_rank == 0:
                self._tell_all(self._lost, but=node)
        return self._lost

    def _readable(self) -> dict[int, Peer]:
        """Peers that have something to say: one call for all, for node 0 of a large run is asked often."""
        poll = select.poll()
        for peer in self.peers.values():
            poll.register(peer.wire, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(0)}
        return {node: peer for node, peer in self.peers.items() if peer.wire.waiting or peer.wire.fileno() in ready}

    def beat(self) -> None:
        """Tell the other nodes, once in BEAT_S, that ranks print here: often one rank of all prints, and the rest wait for it."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_S:
            self._beaten = now
            self._tell_all(Beat(self.rendezvous.node_rank))

    def _pass_on(self, origin: int) -> None:
        """A beat came: nodes know only node 0, which tells the others."""
        self.heard = time.monotonic()
        if self.rendezvous.node_rank == 0 and self.heard - self._beaten >= BEAT_S:
            self._beaten = self.heard
            self._tell_all(Beat(origin), but=origin)

    def abort(self, cause: str, exit_code: int = RankFailed.exit_code) -> None:
        """Tell all other nodes that this one has failed, so that they end at once and not by their own timeout."""
        if self._lost is None:
            self._lost = Abort(f"node {self.rendezvous.node_rank} ({socket.gethostname()}): {cause}", exit_code)
            self._tell_all(self._lost)

    def outlast_node_0(self, timeout_s: float, until: Until = _never) -> None:
        """Wait until node 0 has closed its end: it writes the record of all, and a launcher may kill the rest when a first node fails."""
        deadline = time.monotonic() + timeout_s
        with suppress(WireClosed, KeyError):
            while (now := time.monotonic()) < min(deadline, until()) and self.rendezvous.node_rank:
                self.peers[0].wire.receive(min(deadline, now + 1.0))

    def close(self) -> None:
        for peer in self.peers.values():
            peer.wire.close()
        self.peers.clear()

    def descriptors(self) -> list[int]:
        return [peer.wire.fileno() for peer in self.peers.values()]

    def _tell_all(self, message: Message, but: int | None = None) -> None:
        for node, peer in self.peers.items():
            if node != but:
                tell(peer.wire, message)

    def _receive(self, node: int, kind: type[Awaited], deadline: float, timeout_s: float, until: Until) -> Awaited:
        """The next message of that kind from one node; what is said in between is dealt with."""
        reported = time.monotonic()
        name = self._name(node)
        while True:
            now = time.monotonic()
            try:
                message = self.peers[node].wire.receive(min(deadline, now + 1.0))
            except WireClosed as error:
                raise RankFailed(f"{name} is gone: {error}", hint="its own log says why") from None
            if isinstance(message, kind):
                return message
            if isinstance(message, Beat):
                self._pass_on(node)
                continue
            if isinstance(message, Abort):
                if self._lost is None:
                    raise ERRORS.get(message.exit_code, RankFailed)(message.abort)
                # The run is known to have failed; what is gathered now is what each node has of it.
                continue
            if isinstance(message, Note):
                self.report(message.note)
                reported = time.monotonic()
            now = time.monotonic()
            if now >= until():
                raise TimedOut(f"{name} had not answered when this run was stopped")
            if now >= deadline:
                raise TimedOut(f"{name} did not answer within {timeout_s:g} s", hint="look at that node, or allow more time")
            if now - reported >= SAY_EVERY_S:
                reported = now
                self.report(f"waiting for {name}, {deadline - now:.0f} s left")

    def _name(self, node: int) -> str:
        """A node as messages call it, with its host where it has told it."""
        host = self.peers[node].token.partition("/")[0] if node in self.peers else ""
        return f"node {node} ({host or self.rendezvous.master_addr})"
