"""The nodes of a run meet at node 0's port, before anything is exchanged.

A connection that does not open with this run's greeting is dropped: scanners, health checks and a second run on the same port do no harm.
"""

import resource
import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from entrypoints.errors import TimedOut, UsageError
from entrypoints.nodes.rendezvous import Rendezvous
from entrypoints.nodes.wire import PROTOCOL, Abort, Busy, Fatal, Greeting, Message, Note, Welcome, Wire, WireClosed, listen, tell

#: How often a waiting node says what it waits for.
SAY_EVERY_S = 5.0
#: Strangers may keep a connection this long without a greeting.
GREETING_S = 10.0
MAX_STRANGERS = 64


class Peer(NamedTuple):
    """Another node: its connection, and how its process calls itself (see Session.token)."""

    wire: Wire
    token: str


class Meeting:
    """Fills `peers`, by node rank: node 0 welcomes all others, every other node joins node 0."""

    def __init__(self, rendezvous: Rendezvous, report: Callable[[str], None], token: str, peers: dict[int, Peer]) -> None:
        self.rendezvous, self.report, self.token, self.peers = rendezvous, report, token, peers

    def join(self, deadline: float, timeout_s: float) -> None:
        """Connect to node 0 until it takes this node in. Raises TimedOut, UsageError when node 0 refuses this node."""
        node = self.rendezvous
        greeting = Greeting(PROTOCOL, node.run_id, node.node_rank, node.nodes, self.token)
        where = f"{node.master_addr} port {node.exchange_port}"
        reported, reason = time.monotonic(), "not tried yet"
        while True:
            try:
                wire = Wire.connect(node.master_addr, node.exchange_port, min(5.0, max(0.1, deadline - time.monotonic())))
                wire.send(greeting)
                reply = wire.receive(min(deadline, time.monotonic() + GREETING_S))
                if isinstance(reply, Welcome):
                    self.peers[0] = Peer(wire, reply.welcome)
                    return
                wire.close()
                if isinstance(reply, Fatal):
                    raise UsageError(reply.fatal)
                reason = reply.busy if isinstance(reply, Busy) else "something else answers there"
            except (OSError, WireClosed) as error:
                reason = getattr(error, "strerror", None) or str(error)
            now = time.monotonic()
            if now >= deadline:
                raise TimedOut(
                    f"node 0 was not reached within {timeout_s:g} s: {reason}",
                    where=where,
                    hint="is it running, is the name resolvable, is the port open between the nodes?",
                )
            if now - reported >= SAY_EVERY_S:
                reported = now
                self.report(f"node {node.node_rank} waits for node 0 at {where}: {reason}; {deadline - now:.0f} s left")
            time.sleep(0.1)

    def welcome(self, deadline: float, timeout_s: float) -> None:
        """Node 0: take in every other node. Raises TimedOut with the missing ones, UsageError when nodes contradict each other."""
        port, nodes = self.rendezvous.exchange_port, self.rendezvous.nodes
        _raise_descriptor_limit(2 * nodes + 256)
        reported = time.monotonic()
        with listen(port, deadline, self.report) as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            # Connections without a greeting yet, and until when they may stay so.
            strangers: dict[Wire, float] = {}
            while not self._all_here():
                now = time.monotonic()
                missing = ", ".join(str(node) for node in range(1, nodes) if node not in self.peers)
                if now >= deadline:
                    self._tell_all(Abort(f"node 0 gave up: node {missing} of {nodes} did not come", TimedOut.exit_code))
                    raise TimedOut(
                        f"node {missing} of {nodes} did not come within {timeout_s:g} s",
                        where=f"port {port}",
                        hint="were they started, do they know MASTER_ADDR, is the port open between the nodes?",
                    )
                if now - reported >= SAY_EVERY_S:
                    reported = now
                    note = f"node 0 waits for node {missing} on port {port}; {deadline - now:.0f} s left"
                    self.report(note)
                    self._tell_all(Note(note))
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
        """True when every other node is connected; one that left meanwhile may be restarted, and is waited for again."""
        others = self.rendezvous.nodes - 1
        if len(self.peers) == others:
            for node in [node for node, peer in self.peers.items() if not peer.wire.alive()]:
                self.peers.pop(node).wire.close()
        return len(self.peers) == others

    def _greet(self, wire: Wire) -> bool:
        """Read a newcomer's greeting; True when it is dealt with (a peer now, or closed). Raises UsageError for a contradiction."""
        nodes = self.rendezvous.nodes
        try:
            greeting = wire.receive(time.monotonic())
        except WireClosed:
            wire.close()
            return True
        if greeting is None:
            return False
        if not isinstance(greeting, Greeting) or greeting.epbox != PROTOCOL or greeting.run != self.rendezvous.run_id:
            _refuse(wire, Busy("another run uses this port; it is waited for"))
            return True
        node, token = greeting.node_rank, greeting.token
        if greeting.nodes != nodes or not 0 < node < nodes:
            fatal = f"node {node} counts {greeting.nodes} nodes, node 0 counts {nodes}"
            _refuse(wire, Fatal(fatal))
            raise UsageError(fatal, where=token, hint="give all nodes the same WORLD_SIZE and their own RANK")
        earlier = self.peers.get(node)
        if earlier is not None:
            # One that is dead was a pod's that was restarted since: the new one takes its place.
            if earlier.token != token and earlier.wire.alive():
                fatal = f"two processes call themselves node {node}: {earlier.token} and {token} (host/pid)"
                _refuse(wire, Fatal(fatal))
                self._tell_all(Abort(fatal, UsageError.exit_code))
                raise UsageError(fatal, hint="give each node its own RANK")
            earlier.wire.close()
        self.peers[node] = Peer(wire, token)
        tell(wire, Welcome(self.token))
        return True

    def _tell_all(self, message: Message) -> None:
        for peer in self.peers.values():
            tell(peer.wire, message)


def _refuse(wire: Wire, reply: Message) -> None:
    tell(wire, reply)
    wire.close()


def _raise_descriptor_limit(least: int) -> None:
    """Allow this process at least so many descriptors: 1024, the usual soft limit, are too few for one connection to each of 1000 nodes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < least:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (least if hard < 0 else min(least, hard), hard))
