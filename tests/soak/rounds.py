"""Rounds of stored streams while something is done to them, and the check of what readers saw.

Every reader's token ids must be those of an uninterrupted run, with every event seen once.
"""

import asyncio
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.soak.following import Disagreement, Following
from tests.soak.reader import Doors, Transport, follow
from tests.soak.server import MODEL_NAME, Server

NUM_REQUESTS = 48  # to draw each round's from
OPENINGS = ("Once upon a time", "Tell me of Lily", "A dog and a cat", "The sun", "Tim was sad")

Disturb = Callable[[], Coroutine[Any, Any, None]]


@dataclass
class Figures:
    rounds: int = 0
    streams: int = 0
    readers: int = 0
    connections: int = 0
    tokens: int = 0
    resumed: int = 0  # streams that a start of the server found in progress
    events: Counter[str] = field(default_factory=Counter)  # what was done, and how often
    errors: Counter[str] = field(default_factory=Counter)  # that events told readers of
    notes: list[str] = field(default_factory=list)  # what was measured beside
    problems: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)  # of each round the longest of a stream

    def __str__(self) -> str:
        counts = {k: v for k, v in vars(self).items() if isinstance(v, int)} | self.events
        text = " ".join(f"{name}={count}" for name, count in counts.items())
        return f"{text} errors={self.errors.total()} problems={len(self.problems)}"


def make_requests(rng: random.Random) -> list[dict[str, Any]]:
    """Half of them greedy, half with a seed."""
    return [
        {
            "model": MODEL_NAME,
            "input": f"{rng.choice(OPENINGS)} {k}",
            "max_output_tokens": rng.randint(100, 400),
            "ignore_eos": k % 4 == 0,
            "return_token_ids": True,
            "seed": k,
            "temperature": 0.0 if k % 2 else 1.0,
        }
        for k in range(NUM_REQUESTS)
    ]


async def uninterrupted(doors: Doors, requests: Sequence[dict[str, Any]]) -> list[Following]:
    """A view of each request, not stored, one after the other."""
    found = []
    for number, body in enumerate(requests):
        following = Following(body | {"store": False}, f"reference-{number}")
        await follow(following, doors)
        found.append(following)
    return found


class Rounds:
    """Readers come through `port` and `grpc_port`, which are the server's or a relay's."""

    def __init__(
        self,
        server: Server,
        rng: random.Random,
        *,
        port: int | None = None,
        grpc_port: int | None = None,
        silence_s: float | None = None,
        figures: Figures | None = None,
        doors: Doors | None = None,
        requests: Sequence[dict[str, Any]] | None = None,
        transports: Sequence[Transport] = ("sse", "websocket", "grpc"),
        spread_s: float = 0.2,
    ) -> None:
        """`silence_s`: see `reader.follow`. `figures`: to count on in. `doors`: for those ports.
        `requests`: in place of texts. `spread_s`: over which the streams of a round begin."""
        self.figures = figures or Figures()
        self._server = server
        self._spread_s = spread_s
        self._rng = rng
        self._doors = doors or Doors(port or server.port, grpc_port or server.grpc_port)
        self._silence_s = silence_s
        self._requests = make_requests(rng) if requests is None else requests
        self._transports = transports
        self._expected: list[Following] = []
        self.readers: list[Following] = []  # of the last round, each of a stream of its own

    async def __aenter__(self) -> Self:
        async with Doors(self._server.port, self._server.grpc_port) as doors:
            self._expected = await uninterrupted(doors, self._requests)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._doors.client.aclose()
        self.figures.resumed = self._server.num_resumed()

    async def play(self, disturb: Disturb, *, least: int = 8, most: int = 32) -> None:
        """Some streams, from `least` to `most`, and meanwhile `disturb`."""
        rng, figures = self._rng, self.figures
        chosen = rng.sample(range(len(self._requests)), rng.randint(least, most))
        readers = [Following(self._requests[k], f"round-{figures.rounds}-{k}") for k in chosen]
        self.readers = readers
        reading = asyncio.gather(*map(self._read, readers), return_exceptions=True)
        try:
            await disturb()
            outcomes = await reading
        finally:
            reading.cancel()
        self._check(chosen, readers, outcomes)
        for reader in readers:
            figures.errors.update(_general(error) for error in reader.errors)
        figures.rounds += 1
        figures.streams += len(readers)
        print(f"round {figures.rounds}: {figures}", file=sys.stderr, flush=True)

    def once_begun(self, disturb: Disturb) -> Disturb:
        """`disturb` as soon as half of a round's readers know their stream."""

        async def wait_and_disturb() -> None:
            while self._num_begun < len(self.readers) / 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await disturb()

        return wait_and_disturb

    @property
    def _num_begun(self) -> int:
        return sum(reader.response_id is not None for reader in self.readers)

    async def follow(self, reader: Following, transport: Transport, leave_chance: float) -> None:
        """Read to the end, whatever happens."""
        await follow(
            reader,
            self._doors,
            transport,
            rng=self._rng,
            leave_chance=leave_chance,
            silence_s=self._silence_s,
        )

    async def _read(self, reader: Following) -> None:
        """A reader, and perhaps a second one that comes later and starts at the first event."""
        leave_chance = self._rng.choice((0.0, 0.0, 0.01))
        await asyncio.sleep(self._rng.random() * self._spread_s)
        transport = self._rng.choice(self._transports)
        await self.follow(reader, transport, leave_chance)
        self._count(reader)
        if self._rng.random() < 0.25:
            second = Following(reader.body, reader.key, response_id=reader.response_id)
            await self.follow(second, "grpc" if transport == "grpc" else "sse", 0.0)
            self._count(second)
            if second.seen != reader.seen:
                raise Disagreement("a second reader saw other tokens or calls")

    def _count(self, reader: Following) -> None:
        self.figures.readers += 1
        self.figures.connections += reader.num_connections
        self.figures.tokens += len(reader.token_ids or reader.documents or ())

    def _check(
        self, chosen: Sequence[int], readers: Sequence[Following], outcomes: Sequence[object]
    ) -> None:
        for k, reader, outcome in zip(chosen, readers, outcomes, strict=True):
            problem = reader.difference(self._expected[k])
            if isinstance(outcome, BaseException):
                problem = f"{type(outcome).__name__}: {outcome}"
            if problem is not None:
                where = f"round {self.figures.rounds} request {k} response {reader.response_id}"
                self.figures.problems.append(f"{where}: {problem}")


def _general(error: str) -> str:
    """Without what differs from stream to stream."""
    return re.sub(r"resp_\w+|port \d+", "...", error)
