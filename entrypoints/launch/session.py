"""One TCP connection per node to node 0, kept for the run: facts before, results after, and a dead node noticed between.

Messages are JSON objects, one a line. A connection that does not open with this run's greeting is dropped, so scanners,
health checks and a second run on the same port do no harm.
"""

import os
import resource
import select
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from entrypoints.errors import EPBoxError, PreflightFailed, RankFailed, TimedOut, UsageError
from entrypoints.launch.wire import Wire, WireClosed, encode, listen
from entrypoints.output import say

if TYPE_CHECKING:
    from entrypoints.launch.rendezvous import Rendezvous

#: How often a waiting node says whom it waits for.
SAY_EVERY_S = 5.0
#: Strangers may keep a connection this long without a greeting.
GREETING_S = 10.0
MAX_STRANGERS = 64
#: How often a node tells the others, at most, that its ranks print.
BEAT_S = 1.0
PROTOCOL = "epbox.session/1"
Digest = Callable[[list[dict[str, Any]]], dict[str, Any]]
ERRORS = {error.exit_code: error for error in (UsageError, PreflightFailed, RankFailed, TimedOut)}


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
        greeting = {"epbox": PROTOCOL, "run": there.run_id, "node_rank": there.node_rank, "nodes": there.nodes, "token": self.token}
        if there.node_rank == 0:
            self._welcome(deadline, timeout_s)
        else:
            self._join(greeting, deadline, timeout_s)
        return self.gather(facts, max(1.0, deadline - time.monotonic()), digest)

    def gather(self, value: dict[str, Any], timeout_s: float, digest: Digest | None = None) -> Any:
        """All-gather one object a node, in node rank order. Raises TimedOut, or RankFailed when a node is lost.

        With a digest, node 0 alone sees all objects, and every node gets what it makes of them: records of N nodes sent to N nodes
        would be N squared.
        """
        there = self.rendezvous
        if there.nodes == 1:
            return digest([value]) if digest else [value]
        deadline = time.monotonic() + timeout_s
        if there.node_rank:
            # Should node 0 be gone, _receive says so.
            self._send(0, self.peers[0], {"value": value})
            return self._receive(0, deadline, timeout_s)["all"]
        values = {0: value}
        for node in sorted(self.peers):
            try:
                values[node] = self._receive(node, deadline, timeout_s)["value"]
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
            for node, wire in self.peers.items():
                self._send(node, wire, {"beat": self.rendezvous.node_rank})

    def _pass_on(self, origin: int) -> None:
        """A beat came: nodes know only node 0, which tells the others."""
        self.heard = time.monotonic()
        if self.rendezvous.node_rank == 0 and self.heard - self._beaten >= BEAT_S:
            self._beaten = self.heard
            for node, wire in self.peers.items():
                if node != origin:
                    self._send(node, wire, {"beat": origin})

    def abort(self, cause: str, exit_code: int = RankFailed.exit_code) -> None:
        """Tell all other nodes that this one has failed, so that they end at once and not by their own timeout."""
        if self._lost is None:
            self._lost = (f"node {self.rendezvous.node_rank} ({socket.gethostname()}): {cause}", exit_code)
            self._broadcast(*self._lost)

    def outlast_node_0(self, timeout_s: float) -> None:
        """Wait until node 0 has closed its end: it writes the record of all, and a launcher may kill the rest when a first node fails."""
        deadline = time.monotonic() + timeout_s
        with suppress(WireClosed, KeyError):
            while time.monotonic() < deadline and self.rendezvous.node_rank:
                self.peers[0].receive(deadline)

    def close(self) -> None:
        for wire in self.peers.values():
            wire.close()
        self.peers.clear()

    def descriptors(self) -> list[int]:
        return [wire.fileno() for wire in self.peers.values()]

    def _broadcast(self, cause: str, exit_code: int, but: int | None = None) -> None:
        for node, wire in self.peers.items():
            if node != but:
                self._send(node, wire, {"abort": cause, "exit_code": exit_code})

    def _send(self, node: int, wire: Wire, message: dict[str, Any]) -> None:
        with suppress(WireClosed):
            wire.send(message)

    def _receive(self, node: int, deadline: float, timeout_s: float) -> dict[str, Any]:
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
            if now >= deadline:
                raise TimedOut(f"{who} did not answer within {timeout_s:g} s", hint="look at that node, or allow more time")
            if now - said >= SAY_EVERY_S:
                said = now
                self.report(f"waiting for {who}, {deadline - now:.0f} s left")

    def _join(self, greeting: dict[str, Any], deadline: float, timeout_s: float) -> None:
        """Connect to node 0 until it takes this node in."""
        there = self.rendezvous
        where = f"{there.master_addr} port {there.exchange_port}"
        said, reason = time.monotonic(), "not tried yet"
        while True:
            try:
                wire = Wire.connect(there.master_addr, there.exchange_port, min(5.0, max(0.1, deadline - time.monotonic())))
                wire.send(greeting)
                answer = wire.receive(min(deadline, time.monotonic() + GREETING_S)) or {}
                if answer.get("welcome"):
                    self.peers, self.names = {0: wire}, {0: str(answer["welcome"])}
                    return
                wire.close()
                if answer.get("fatal"):
                    raise UsageError(str(answer["fatal"]))
                reason = str(answer.get("busy") or "something else answers there")
            except (OSError, WireClosed) as error:
                reason = getattr(error, "strerror", None) or str(error)
            now = time.monotonic()
            if now >= deadline:
                raise TimedOut(
                    f"node 0 was not reached within {timeout_s:g} s: {reason}",
                    where=where,
                    hint="is it running, is the name resolvable, is the port open between the nodes?",
                )
            if now - said >= SAY_EVERY_S:
                said = now
                self.report(f"node {there.node_rank} waits for node 0 at {where}: {reason}; {deadline - now:.0f} s left")
            time.sleep(0.1)

    def _welcome(self, deadline: float, timeout_s: float) -> None:
        """Node 0: take in every other node."""
        there = self.rendezvous
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < (least := 2 * there.nodes + 256):
            # One connection a node: 1024 descriptors, the usual soft limit, are too few for a thousand.
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (least if hard < 0 else min(least, hard), hard))
        said = time.monotonic()
        with listen(there.exchange_port, deadline, self.report) as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            strangers: dict[Wire, float] = {}
            while not self._all_here():
                now = time.monotonic()
                missing = ", ".join(str(node) for node in range(1, there.nodes) if node not in self.peers)
                if now >= deadline:
                    self._broadcast(f"node 0 gave up: node {missing} of {there.nodes} did not come", TimedOut.exit_code)
                    raise TimedOut(
                        f"node {missing} of {there.nodes} did not come within {timeout_s:g} s",
                        where=f"port {there.exchange_port}",
                        hint="were they started, do they know MASTER_ADDR, is the port open between the nodes?",
                    )
                if now - said >= SAY_EVERY_S:
                    said = now
                    note = f"node 0 waits for node {missing} on port {there.exchange_port}; {deadline - now:.0f} s left"
                    self.report(note)
                    for node, wire in self.peers.items():
                        self._send(node, wire, {"note": note})
                for key, _ in selector.select(min(1.0, SAY_EVERY_S, deadline - now)):
                    if key.fileobj is listener:
                        with suppress(OSError):
                            wire = Wire(listener.accept()[0])
                            strangers[wire] = now + GREETING_S
                            selector.register(wire, selectors.EVENT_READ)
                    elif isinstance(key.fileobj, Wire) and self._greet(key.fileobj):
                        selector.unregister(key.fileobj)
                        strangers.pop(key.fileobj, None)
                oldest = sorted(strangers, key=strangers.__getitem__)
                for wire in oldest[: max(0, len(oldest) - MAX_STRANGERS)] + [w for w in oldest if strangers[w] < now]:
                    if strangers.pop(wire, None) is not None:
                        selector.unregister(wire)
                        wire.close()
            for wire in strangers:
                wire.close()

    def _all_here(self) -> bool:
        """Every other node is connected; one that left while others were waited for may be restarted, and is waited for again."""
        others = self.rendezvous.nodes - 1
        if len(self.peers) == others:
            for node in [node for node, wire in self.peers.items() if not wire.alive()]:
                self.peers.pop(node).close()
        return len(self.peers) == others

    def _greet(self, wire: Wire) -> bool:
        """Read a newcomer's greeting; True when it is dealt with (a peer now, or closed)."""
        there = self.rendezvous
        try:
            hello = wire.receive(time.monotonic())
        except WireClosed:
            wire.close()
            return True
        if hello is None:
            return False
        node = hello.get("node_rank")
        if hello.get("epbox") != PROTOCOL or hello.get("run") != there.run_id or not isinstance(node, int):
            self._refuse(wire, {"busy": "another run uses this port; it is waited for"})
            return True
        if hello.get("nodes") != there.nodes or not 0 < node < there.nodes:
            fatal = f"node {node} counts {hello.get('nodes')} nodes, node 0 counts {there.nodes}"
            self._refuse(wire, {"fatal": fatal})
            raise UsageError(fatal, where=str(hello.get("token")), hint="give all nodes the same WORLD_SIZE and their own RANK")
        token = str(hello.get("token"))
        # An earlier connection that is dead was a pod's that was restarted since: the new one takes its place.
        if node in self.peers and self.names[node] != token and self.peers[node].alive():
            fatal = f"two processes call themselves node {node}: {self.names[node]} and {token} (host/pid)"
            self._refuse(wire, {"fatal": fatal})
            self._broadcast(fatal, UsageError.exit_code)
            raise UsageError(fatal, hint="give each node its own RANK")
        if node in self.peers:
            self.peers[node].close()
        self.peers[node], self.names[node] = wire, token
        self._send(node, wire, {"welcome": self.token})
        return True

    def _who(self, node: int) -> str:
        name = self.names.get(node, "")
        return f"node {node} ({name.partition('/')[0] or self.rendezvous.master_addr})"

    @staticmethod
    def _refuse(wire: Wire, answer: dict[str, Any]) -> None:
        with suppress(WireClosed):
            wire.send(answer)
        wire.close()


def exchange(rendezvous: "Rendezvous", facts: dict[str, Any], timeout_s: float) -> list[dict[str, Any]]:
    """All-gather one JSON object a node over a connection that is closed again. See Session for a run's whole length."""
    with Session(rendezvous) as session:
        return list(session.open(facts, timeout_s))
