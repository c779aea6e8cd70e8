"""The network between readers and server: connections cut by RST, or silent and never closed."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.soak.relay import Link, Relay
from tests.soak.rounds import Figures, Rounds
from tests.soak.server import Server

READER_TIMEOUT_S = 1.0  # when the server gives up a silent reader
KEEP_ALIVE_S = 5.0  # uvicorn's, for a connection whose answer is complete
SILENCE_S = 0.7  # when a reader gives up a silent server


async def rst(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    """RST at both ends of a random part of the connections, some times per round."""
    rng = random.Random(seed)
    async with (
        Server(folder, options) as server,
        relays(server) as both,
        Rounds(server, rng, port=both[0].port, grpc_port=both[1].port) as play,
    ):

        async def reset_some() -> None:
            for _ in range(rng.randint(2, 8)):
                await asyncio.sleep(rng.random() * 0.3)
                for relay in both:
                    links = some(relay, rng)
                    play.figures.events["resets"] += len(links)
                    await relay.reset(links)

        for _ in range(rounds):
            await play.play(reset_some)
    return play.figures


async def half_open(
    rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()
) -> Figures:
    """A random part of the connections falls silent for good, and neither end hears of it.

    Their readers come again by other connections. The server must give up the old ones.
    """
    rng = random.Random(seed)
    frozen: set[int] = set()
    options = ("--reader-timeout", str(READER_TIMEOUT_S), "--ping-interval-s", "0.1", *options)
    async with (
        Server(folder, options) as server,
        relays(server, has_small_buffers=True) as both,
        Rounds(
            server,
            rng,
            port=both[0].port,
            grpc_port=both[1].port,
            silence_s=SILENCE_S,
        ) as play,
    ):

        async def freeze_some() -> None:
            for _ in range(rng.randint(1, 4)):
                await asyncio.sleep(rng.random() * 0.4)
                for relay in both:
                    # A connection on which nothing was asked yet is TCP's affair, which the relay's
                    # kernel answers for.
                    links = {link for link in some(relay, rng) if link.num_bytes}
                    play.figures.events["frozen"] += len(links)
                    for link in links:
                        await link.freeze()
                        frozen.add(link.port)

        for _ in range(rounds):
            await play.play(freeze_some, most=16)
            await _given_up(server, frozen, play.figures)
            frozen.clear()
            for relay in both:
                await relay.reset(relay.links)
    return play.figures


async def _given_up(server: Server, frozen: set[int], figures: Figures) -> None:
    """Wait until the server has closed its ends of these, the other ends of which are open."""
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < KEEP_ALIVE_S + 3 * READER_TIMEOUT_S:
        if frozen.isdisjoint(server.peers()):
            figures.notes.append(f"all silent connections given up after {seconds:.1f} s")
            return
        await asyncio.sleep(0.05)
    num_left = len(frozen & server.peers())
    figures.problems.append(f"round {figures.rounds}: {num_left} silent connections stay")


@asynccontextmanager
async def relays(
    server: Server, *, has_small_buffers: bool = False
) -> AsyncIterator[tuple[Relay, Relay]]:
    """In front of the HTTP and of the gRPC port."""
    async with (
        Relay.to(server.port, has_small_buffers=has_small_buffers) as http,
        Relay.to(server.grpc_port, has_small_buffers=has_small_buffers) as grpc,
    ):
        yield http, grpc


def some(relay: Relay, rng: random.Random) -> set[Link]:
    return {link for link in relay.links if rng.random() < 0.5}
