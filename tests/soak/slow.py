"""Readers at one byte per second: what they cost the server, and what they cost the others."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.soak.following import Following
from tests.soak.network import relays
from tests.soak.reader import Doors, Transport, follow
from tests.soak.rounds import Figures, uninterrupted
from tests.soak.server import MODEL_NAME, Server

NUM_SLOW = 24
NUM_FAST = 8
NUM_TOKENS = 400
# Two kilobytes an event, so that an answer does not fit into the kernel's buffers.
LOGPROBS: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 20}
TRANSPORTS: tuple[Transport, ...] = ("sse", "websocket", "grpc")
# What the server may hold for a slow reader: what it had made when the reader's connection filled,
# at most 256 events (docs/streams.md), and the positions of a reader. The kernel's part is apart.
MAX_BYTES_PER_READER = 2 * 2**20


class Pace(NamedTuple):
    """Of the readers that are not slow."""

    seconds: float
    itl_p99_ms: float  # the median is 0: several of so small a model's tokens share a read


async def slow(
    rounds: int,
    *,
    seed: int,
    folder: Path,
    options: tuple[str, ...] = (),
    num_slow: int = NUM_SLOW,
) -> Figures:
    figures = Figures()
    bodies = _requests(num_slow, seed)
    async with (
        Server(folder, options) as server,
        relays(server, has_small_buffers=True) as (http, grpc),
        Doors(server.port, server.grpc_port) as doors,
        Doors(http.port, grpc.port) as slow_doors,
    ):
        expected = await uninterrupted(doors, bodies)
        for number in range(rounds):
            await _race(doors, bodies, f"warm-{number}")
            alone = await _race(doors, bodies, f"alone-{number}")
            before = server.rss_bytes()
            for relay in (http, grpc):
                relay.is_fast.clear()
            lagging = [Following(body, f"slow-{number}-{k}") for k, body in enumerate(bodies)]
            reading = [
                asyncio.create_task(follow(one, slow_doors, TRANSPORTS[k % 3]))
                for k, one in enumerate(lagging)
            ]
            await _all_generated(doors, lagging)
            held = server.rss_bytes() - before
            beside = await _race(doors, bodies, f"beside-{number}")
            num_ended = sum(one.status is not None for one in lagging)
            for relay in (http, grpc):
                relay.is_fast.set()
            await asyncio.gather(*reading)
            _check(figures, lagging, expected)
            if num_ended:
                figures.problems.append(f"{num_ended} readers were not slow")
            if held > num_slow * MAX_BYTES_PER_READER:
                figures.problems.append(f"{held} bytes for {num_slow} slow readers")
            figures.notes += [
                f"server's memory {before / 2**20:.0f} MiB, with {num_slow} slow readers "
                f"{held / 2**20:+.1f} MiB, {held / num_slow / 1024:.0f} KiB each",
                f"{NUM_FAST} other readers alone {_said(alone)}; beside them {_said(beside)}",
            ]
            figures.rounds += 1
    return figures


def _requests(count: int, seed: int) -> list[dict[str, Any]]:
    """Greedy and drawn, all of the same length."""
    return [
        LOGPROBS
        | {
            "model": MODEL_NAME,
            "input": f"Once upon a time {seed} {k}",
            "max_output_tokens": NUM_TOKENS,
            "ignore_eos": True,
            "return_token_ids": True,
            "seed": k,
            "temperature": float(k % 2),
        }
        for k in range(count)
    ]


async def _race(doors: Doors, bodies: Sequence[dict[str, Any]], name: str) -> Pace:
    """Fast readers, who hear of token after token."""
    began = time.perf_counter()
    plain = [{k: v for k, v in body.items() if k not in LOGPROBS} for body in bodies[:NUM_FAST]]
    followings = [Following(body, f"{name}-{k}") for k, body in enumerate(plain)]
    times = await asyncio.gather(*(_arrivals(one, doors) for one in followings))
    seconds = time.perf_counter() - began
    gaps = [b - a for found in times for a, b in zip(found, found[1:], strict=False)]
    return Pace(seconds, statistics.quantiles(gaps, n=100)[98] * 1000)


async def _arrivals(following: Following, doors: Doors) -> list[float]:
    found = []
    async for event in doors.events(following, "sse"):
        following.take(event)
        found.append(time.perf_counter())
    assert len(following.token_ids) == NUM_TOKENS
    return found


async def _all_generated(doors: Doors, lagging: Sequence[Following]) -> None:
    """Return when the answers are complete, of which their readers have seen next to nothing."""
    is_done = False
    while not is_done:
        await asyncio.sleep(0.05)
        metrics = (await doors.client.get("/metrics")).text.splitlines()
        is_idle = {"llamastream_running 0.0", "llamastream_waiting 0.0"} <= set(metrics)
        is_done = is_idle and all(one.response_id is not None for one in lagging)


def _check(figures: Figures, lagging: Sequence[Following], expected: Sequence[Following]) -> None:
    for one, whole in zip(lagging, expected, strict=True):
        figures.streams += 1
        figures.readers += 1
        figures.connections += one.num_connections
        figures.tokens += len(one.token_ids or one.documents or ())
        if (problem := one.difference(whole)) is not None:
            figures.problems.append(f"response {one.response_id}: {problem}")


def _said(pace: Pace) -> str:
    return f"{pace.seconds:.2f} s, itl p99 {pace.itl_p99_ms:.1f} ms"
