"""The kill loop: streams, `kill -9` or SIGTERM at a random moment, a new start, resumed readers.

    python -m tests.soak.kill_loop --rounds 200

Every reader's token ids must be those of an uninterrupted run, with every event seen once.
"""

import argparse
import asyncio
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.soak.grpc_reader import follow_documents
from tests.soak.reader import Disagreement, Following, Transport, follow
from tests.soak.server import MODEL_NAME, Server

TERM_SHARE = 0.2  # of all ends: SIGTERM, which parks what is not done in time
DRAIN_TIMEOUT_S = 0.1
NUM_REQUESTS = 48  # to draw each round's from
OPENINGS = ("Once upon a time", "Tell me of Lily", "A dog and a cat", "The sun", "Tim was sad")


@dataclass
class Figures:
    rounds: int = 0
    kills: int = 0
    terms: int = 0
    streams: int = 0
    readers: int = 0
    connections: int = 0
    tokens: int = 0
    resumed: int = 0  # streams that a start found in progress
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = " ".join(f"{k}={v}" for k, v in vars(self).items() if k != "problems")
        return f"{counts} problems={len(self.problems)}"


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


async def reference(
    client: httpx.AsyncClient, requests: Sequence[dict[str, Any]]
) -> list[list[int]]:
    """The ids of each request, uninterrupted and alone."""
    return [following.token_ids for following in await uninterrupted(client, requests)]


async def uninterrupted(
    client: httpx.AsyncClient, requests: Sequence[dict[str, Any]]
) -> list[Following]:
    """A view of each request, not stored, one after the other."""
    found = []
    for number, body in enumerate(requests):
        following = Following(body | {"store": False}, f"reference-{number}")
        await follow(following, client, random.Random(0), leave_chance=0.0)
        found.append(following)
    return found


class KillLoop:
    def __init__(self, server: Server, client: httpx.AsyncClient, rng: random.Random) -> None:
        self._server = server
        self._client = client
        self._rng = rng
        self._requests = make_requests(rng)
        self._expected: list[Following] = []
        self.figures = Figures()

    async def prepare(self) -> None:
        self._expected = await uninterrupted(self._client, self._requests)

    async def play_round(self) -> None:
        """Some streams, one or two kills, and the check of what every reader saw."""
        rng, figures = self._rng, self.figures
        chosen = rng.sample(range(NUM_REQUESTS), rng.randint(8, 32))
        readers = [Following(self._requests[k], f"round-{figures.rounds}-{k}") for k in chosen]
        tasks = [asyncio.create_task(self._read(reader)) for reader in readers]
        killer = asyncio.create_task(self._kill_sometime())
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await killer
        self._check(chosen, readers, outcomes)
        figures.rounds += 1
        figures.streams += len(readers)

    async def _read(self, reader: Following) -> None:
        """A reader, and perhaps a second one that comes later and starts at the first event."""
        leave_chance = self._rng.choice((0.0, 0.0, 0.01))
        await asyncio.sleep(self._rng.random() * 0.2)
        transport: Transport = self._rng.choice(("sse", "websocket", "grpc"))
        await self._follow(reader, transport, leave_chance)
        self._count(reader)
        if self._rng.random() < 0.25:
            second = Following(reader.body, reader.key, response_id=reader.response_id)
            await self._follow(second, "grpc" if transport == "grpc" else "sse", 0.0)
            self._count(second)
            if (second.token_ids, second.documents) != (reader.token_ids, reader.documents):
                raise Disagreement("a second reader saw other tokens")

    async def _follow(self, reader: Following, transport: Transport, leave_chance: float) -> None:
        if transport == "grpc":
            where = f"127.0.0.1:{self._server.grpc_port}"
            await follow_documents(reader, where, self._rng, leave_chance=leave_chance)
        else:
            await follow(
                reader, self._client, self._rng, leave_chance=leave_chance, transport=transport
            )

    def _count(self, reader: Following) -> None:
        self.figures.readers += 1
        self.figures.connections += reader.num_connections
        self.figures.tokens += len(reader.token_ids or reader.documents)

    async def _kill_sometime(self) -> None:
        for _ in range(self._rng.choice((1, 1, 1, 2))):
            await asyncio.sleep(self._rng.random() * 0.6)
            if self._rng.random() < TERM_SHARE:
                await self._server.stop(signal.SIGTERM)
                self.figures.terms += 1
            else:
                await self._server.stop()
                self.figures.kills += 1
            await self._server.start()

    def _check(
        self, chosen: Sequence[int], readers: Sequence[Following], outcomes: Sequence[object]
    ) -> None:
        for k, reader, outcome in zip(chosen, readers, outcomes, strict=True):
            problem = reader.difference(self._expected[k])
            if isinstance(outcome, BaseException):
                problem = f"{type(outcome).__name__}: {outcome}"
            if problem is None:
                continue
            where = f"round {self.figures.rounds} request {k} response {reader.response_id}"
            self.figures.problems.append(f"{where}: {problem}")


async def run(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    server = Server(folder, ("--drain-timeout", str(DRAIN_TIMEOUT_S), *options))
    await server.start()
    try:
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=server.url, timeout=httpx.Timeout(30), limits=limits
        ) as client:
            loop = KillLoop(server, client, random.Random(seed))
            await loop.prepare()
            for _ in range(rounds):
                await loop.play_round()
            loop.figures.resumed = server.num_resumed()
            return loop.figures
    finally:
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(
            run(
                arguments.rounds,
                seed=arguments.seed,
                folder=Path(folder),
                options=tuple(options),
            )
        )
    print(*figures.problems, sep="\n")
    print(f"{figures} seconds={time.monotonic() - began:.0f}")
    raise SystemExit(bool(figures.problems))


if __name__ == "__main__":
    main()
