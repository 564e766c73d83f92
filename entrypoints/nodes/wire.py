"""Messages of nodes as JSON objects, one a line, over one TCP socket: bounded sizes, bounded waits, dead peers noticed by keepalive."""

import errno
import json
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, get_args

from entrypoints.errors import TimedOut

PROTOCOL = "epbox.session/1"
#: A node's results with evidence of 16 ranks are some 100 KB.
MAX_MESSAGE = 32 << 20
#: A stranger's first line may not make this process hold more.
MAX_GREETING = 1 << 16
SEND_S = 20.0
#: A node that lost power answers no probe: 5 + 3 x 3 s until it counts as gone.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3))


class WireClosed(Exception):
    """The other side is gone, or does not speak this protocol."""


# The fields of a message are its keys on the wire, and the first one tells its kind.


@dataclass(frozen=True)
class Greeting:
    """The first line of a node to node 0: its protocol, its run, who of how many it is, and the name of its process."""

    epbox: str
    run: str
    node_rank: int
    nodes: int
    token: str


@dataclass(frozen=True)
class Welcome:
    """Node 0 takes a node in, and names its own process."""

    welcome: str


@dataclass(frozen=True)
class Busy:
    """Node 0 of another run: come back later."""

    busy: str


@dataclass(frozen=True)
class Fatal:
    """Node 0 refuses a node for good; the reason."""

    fatal: str


@dataclass(frozen=True)
class Note:
    """A line for people."""

    note: str


@dataclass(frozen=True)
class Beat:
    """Ranks of this node printed a moment ago."""

    beat: int


@dataclass(frozen=True)
class Abort:
    """The run has failed: why, and EPBox's exit code of that."""

    abort: str
    exit_code: int


@dataclass(frozen=True)
class Contribution:
    """A node's part of a gathering: JSON that only the caller of Session looks into."""

    value: Any


@dataclass(frozen=True)
class Everything:
    """The end of a gathering: what node 0 made of all contributions, JSON again."""

    all: Any


Message = Greeting | Welcome | Busy | Fatal | Note | Beat | Abort | Contribution | Everything
KINDS: dict[str, type[Message]] = {fields(kind)[0].name: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """A message as its line."""
    return json.dumps(vars(message)).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises WireClosed when it is none of this protocol."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        for key, kind in KINDS.items():
            if key in document:
                values: dict[str, Any] = {field.name: document.get(field.name) for field in fields(kind)}
                if all(field.type is Any or type(values[field.name]) is field.type for field in fields(kind)):
                    return kind(**values)
    raise WireClosed("it does not speak this protocol")


class Wire:
    """A connection. `receive` waits until a given monotonic time, never longer."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._limit = MAX_GREETING
        self._ended = False
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15000)

    @classmethod
    def connect(cls, host: str, port: int, timeout_s: float) -> "Wire":
        """Try every address of the name (IPv6 and IPv4). Raises OSError."""
        return cls(socket.create_connection((host, port), timeout_s))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Close so that what was sent last still arrives: TCP resets a connection that is closed with unread data."""
        with suppress(OSError, ValueError, WireClosed):
            self._fill()
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()

    def send(self, message: Message) -> None:
        """Send within SEND_S. Raises WireClosed."""
        self.send_line(encode(message))

    def send_line(self, line: bytes) -> None:
        """Send what `encode` made of a message: one for many peers need not be encoded for each."""
        data = memoryview(line)
        deadline = time.monotonic() + SEND_S
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0 or not self._ready(select.POLLOUT, left):
                    raise WireClosed(f"it took nothing for {SEND_S:g} s") from None
            except (OSError, ValueError) as error:
                raise WireClosed(_reason(error)) from None

    def receive(self, until: float) -> Message | None:
        """Take the next message, or None when none came in time. Raises WireClosed."""
        while True:
            message = self.peek()
            if message is not None:
                self.take()
                return message
            left = until - time.monotonic()
            if left <= 0 or not self._ready(select.POLLIN, left):
                return None

    def _ready(self, event: int, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(timeout_s * 1000))

    def peek(self) -> Message | None:
        """The next message if it is here already; it stays. Raises WireClosed."""
        if b"\n" not in self._buffer:
            self._fill()
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > self._limit:
                raise WireClosed("it sent a line without end")
            return None
        return decode(bytes(self._buffer[:end]))

    @property
    def waiting(self) -> bool:
        """True when a message is here that peek would show without reading, or an end that it would raise."""
        return self._ended or b"\n" in self._buffer

    def alive(self) -> bool:
        """False when the other side has closed, even if messages of it are still unread."""
        try:
            self._fill()
        except WireClosed:
            return False
        return not self._ended

    def take(self) -> None:
        """Drop the message that peek showed."""
        del self._buffer[: self._buffer.find(b"\n") + 1]
        self._limit = MAX_MESSAGE

    def _fill(self) -> None:
        """Read what is here. An end raises WireClosed, but not before the last complete line has been taken."""
        while len(self._buffer) <= self._limit:
            try:
                data = self._socket.recv(1 << 16)
                reason = "it closed the connection"
            except BlockingIOError:
                return
            except (OSError, ValueError) as error:
                data, reason = b"", _reason(error)
            if not data:
                self._ended = True
                if b"\n" in self._buffer:
                    return
                raise WireClosed(reason)
            self._buffer += data


def tell(wire: Wire, message: Message) -> None:
    """Send to a node that may be gone: the next read from it will notice."""
    with suppress(WireClosed):
        wire.send(message)


def listen(port: int, deadline: float, report: Callable[[str], None]) -> socket.socket:
    """A listening socket on all addresses, IPv6 and IPv4; a port that another run still holds is waited for. Raises TimedOut."""
    reported = False
    while True:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
            return socket.create_server(("", port), backlog=128)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise TimedOut(f"cannot listen: {error.strerror}", where=f"port {port}", hint="choose another --master-port") from None
            if not reported:
                reported = True
                report(f"port {port} is in use, another run perhaps; waiting for it")
            time.sleep(0.2)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
