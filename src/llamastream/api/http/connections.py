"""How many connections a server holds, and how long each may keep it waiting for its peer.

Whoever connects has shown no key yet. So a connection that waits gives way: to the clock, and,
where there are too many, to the next one. One on which a request is answered does neither.
"""

import asyncio
import ipaddress
import resource
from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from llamastream.errors import ChatError, TooManyConnections

TICK_S = 1.0
HEAD_TIMEOUT_S = 10.0
BODY_TIMEOUT_S = 20.0  # without progress
MIN_BODY_RATE = 500  # bytes that make up for a second
MAX_REFUSED = 64  # that are held until they have read why
REFUSED_TIMEOUT_S = 10.0
DRAIN_S, DRAINED_AT_ONCE = 0.002, 4  # connections whose bodies are read though they are refused
RESERVED_FILES = 128  # for models, databases, pipes
MAX_CONNECTIONS, MAX_PER_ADDRESS, SILENCE_S = 2048, 512, 60.0


class Awaited(Enum):
    """What a connection waits for."""

    REQUEST = "request"
    HEAD = "head"  # the rest of one
    BODY = "body"
    ANSWER = "answer"  # of ours


class Patience:
    """What a connection waits for, and for how long it still will. Only time in which it reads, and
    answers nothing, counts."""

    def __init__(self, silence_s: float) -> None:
        self.awaited = Awaited.REQUEST
        self._limits_s = {
            Awaited.REQUEST: silence_s,
            Awaited.HEAD: HEAD_TIMEOUT_S,
            Awaited.BODY: BODY_TIMEOUT_S,
            Awaited.ANSWER: 0.0,
        }
        self.left_s = silence_s

    def wait_for(self, awaited: Awaited) -> None:
        self.awaited = awaited
        self.left_s = self._limits_s[awaited]

    def progress(self, num_bytes: int) -> None:
        """Of a body: what comes fast saves up no more than the limit."""
        limit_s = self._limits_s[self.awaited]
        self.left_s = min(limit_s, self.left_s + num_bytes / MIN_BODY_RATE)

    def ends_after(self, seconds: float) -> bool:
        """Let time pass."""
        self.left_s -= seconds
        return self.left_s <= 0


class Connection(Protocol):
    patience: Patience

    @property
    def waits(self) -> bool:
        """Whether its peer is to do something, and could."""
        ...

    def give_up(self, error: ChatError | None) -> None:
        """Close it; an error is said where a request has begun and has no answer yet."""
        ...


class Connections:
    """Those of a server, each by its transport."""

    def __init__(
        self,
        most: int = MAX_CONNECTIONS,
        most_per_address: int = MAX_PER_ADDRESS,
        *,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.silence_s = silence_s
        self._most = affordable(most)
        self._most_per_address = most_per_address
        self._places: dict[asyncio.BaseTransport, str | None] = {}
        self._num_at: Counter[str | None] = Counter()
        # In the order in which the waiting began.
        self._waiting: dict[asyncio.BaseTransport, Connection] = {}
        self._refused: dict[asyncio.BaseTransport, Connection] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._to_read: deque[Callable[[], None]] = deque()

    @property
    def num_open(self) -> int:
        return len(self._places)

    @property
    def waiting(self) -> tuple[Connection, ...]:
        """Those whose peer is to do something, and those that will be refused."""
        return (*self._waiting.values(), *self._refused.values())

    def open(
        self, transport: asyncio.BaseTransport, connection: Connection, address: str | None
    ) -> ChatError | None:
        """Count a new connection, for which others may have to give way.

        Gives what to answer to its first request where there is no place for it.
        """
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._on_time)
        place = place_of(address)
        refusal = self._make_room(place)
        if refusal is not None:
            if len(self._refused) >= MAX_REFUSED:
                oldest = next(iter(self._refused))
                self._refused.pop(oldest).give_up(refusal)
            self._refused[transport] = connection
            return refusal
        self._places[transport] = place
        self._num_at[place] += 1
        self._waiting[transport] = connection
        return None

    def close(self, transport: asyncio.BaseTransport) -> None:
        """Forget it, if it is known."""
        self._refused.pop(transport, None)
        self._waiting.pop(transport, None)
        if transport in self._places:
            place = self._places.pop(transport)
            self._num_at[place] -= 1
            if not self._num_at[place]:
                del self._num_at[place]

    def wait(self, transport: asyncio.BaseTransport, connection: Connection) -> None:
        """The connection waits for its peer, perhaps as before."""
        if transport in self._places:
            self._waiting.setdefault(transport, connection)

    def answer(self, transport: asyncio.BaseTransport) -> None:
        """The connection's peer waits for us."""
        self._waiting.pop(transport, None)

    def read_on_later(self, read_on: Callable[[], None]) -> None:
        """Of a body that nobody wants: all of them together get a part of the loop's time."""
        if not self._to_read:
            asyncio.get_running_loop().call_later(DRAIN_S, self._read_some)
        self._to_read.append(read_on)

    def _read_some(self) -> None:
        for _ in range(min(DRAINED_AT_ONCE, len(self._to_read))):
            self._to_read.popleft()()
        if self._to_read:
            asyncio.get_running_loop().call_later(DRAIN_S, self._read_some)

    def tick(self, seconds: float) -> None:
        """Let time pass for those that wait. Who was too slow is told nothing: it hardly reads."""
        for transport, connection in (*self._waiting.items(), *self._refused.items()):
            if connection.waits and connection.patience.ends_after(seconds):
                self.close(transport)
                connection.give_up(None)

    def _on_time(self) -> None:
        self._timer = None
        self.tick(TICK_S)
        if self._places or self._refused:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._on_time)

    def _make_room(self, place: str | None) -> ChatError | None:
        """Let those go for which a new connection of `place` is one too many: who has waited
        longest first. Gives the refusal where all are being answered."""
        if place is not None and self._num_at[place] >= self._most_per_address:
            here = (other for other in self._waiting if self._places[other] == place)
            error = TooManyConnections(
                f"An address may have <= {self._most_per_address} connections at a time. Close "
                "some, or raise --max-connections-per-address."
            )
            if not self._let_go(next(here, None), error):
                return error
        if len(self._places) >= self._most:
            error = TooManyConnections(
                f"The server has <= {self._most} connections at a time. Come back later, or raise "
                "--max-connections."
            )
            if not self._let_go(next(iter(self._waiting), None), error):
                return error
        return None

    def _let_go(self, transport: asyncio.BaseTransport | None, error: ChatError) -> bool:
        if transport is None:
            return False
        connection = self._waiting[transport]
        self.close(transport)
        connection.give_up(error)
        return True


def connections_of(app_state: dict[str, Any]) -> Connections:
    """Those of the server that an application's lifespan has this state of."""
    if "connections" not in app_state:
        app_state["connections"] = Connections()
    connections: Connections = app_state["connections"]
    return connections


def place_of(address: str | None) -> str | None:
    """What is counted as one address: of IPv6 the network, for its owner has 2^64 of them. None for
    this machine itself, on which a proxy may stand for everybody."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return None
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def affordable(most: int) -> int:
    """`most`, or what the limit of open files leaves to each of two transports."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, (limit - RESERVED_FILES) // 2))


def raise_file_limit() -> None:
    """To what the system lets this process have: a connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
