"""How the nodes of a run meet at node 0's port, before anything is exchanged.

A connection that does not open with this run's greeting is dropped: scanners, health checks and a second run on the same port do no harm.
"""

import resource
import selectors
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from entrypoints.errors import TimedOut, UsageError
from entrypoints.nodes.wire import Wire, WireClosed, listen, tell

if TYPE_CHECKING:
    from entrypoints.nodes.rendezvous import Rendezvous

#: How often a waiting node says whom it waits for.
SAY_EVERY_S = 5.0
#: Strangers may keep a connection this long without a greeting.
GREETING_S = 10.0
MAX_STRANGERS = 64
PROTOCOL = "epbox.session/1"


class Meeting:
    """Fills `peers` and `names` (token by node rank): node 0 welcomes all others, every other node joins node 0."""

    def __init__(
        self, rendezvous: "Rendezvous", report: Callable[[str], None], token: str, peers: dict[int, Wire], names: dict[int, str]
    ) -> None:
        self.rendezvous, self.report, self.token, self.peers, self.names = rendezvous, report, token, peers, names

    def join(self, deadline: float, timeout_s: float) -> None:
        """Connect to node 0 until it takes this node in."""
        there = self.rendezvous
        greeting = {"epbox": PROTOCOL, "run": there.run_id, "node_rank": there.node_rank, "nodes": there.nodes, "token": self.token}
        where = f"{there.master_addr} port {there.exchange_port}"
        said, reason = time.monotonic(), "not tried yet"
        while True:
            try:
                wire = Wire.connect(there.master_addr, there.exchange_port, min(5.0, max(0.1, deadline - time.monotonic())))
                wire.send(greeting)
                answer = wire.receive(min(deadline, time.monotonic() + GREETING_S)) or {}
                if answer.get("welcome"):
                    self.peers[0], self.names[0] = wire, str(answer["welcome"])
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

    def welcome(self, deadline: float, timeout_s: float) -> None:
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
                    self._abort(f"node 0 gave up: node {missing} of {there.nodes} did not come", TimedOut.exit_code)
                    raise TimedOut(
                        f"node {missing} of {there.nodes} did not come within {timeout_s:g} s",
                        where=f"port {there.exchange_port}",
                        hint="were they started, do they know MASTER_ADDR, is the port open between the nodes?",
                    )
                if now - said >= SAY_EVERY_S:
                    said = now
                    note = f"node 0 waits for node {missing} on port {there.exchange_port}; {deadline - now:.0f} s left"
                    self.report(note)
                    for wire in self.peers.values():
                        tell(wire, {"note": note})
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
            self._abort(fatal, UsageError.exit_code)
            raise UsageError(fatal, hint="give each node its own RANK")
        if node in self.peers:
            self.peers[node].close()
        self.peers[node], self.names[node] = wire, token
        tell(wire, {"welcome": self.token})
        return True

    def _abort(self, cause: str, exit_code: int) -> None:
        for wire in self.peers.values():
            tell(wire, {"abort": cause, "exit_code": exit_code})

    @staticmethod
    def _refuse(wire: Wire, answer: dict[str, Any]) -> None:
        tell(wire, answer)
        wire.close()
