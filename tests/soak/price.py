"""What durability costs: streams that are stored against streams that are not, taking turns.

python -m tests.soak.price --model demo --streams 32 --rounds 5
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.soak.following import Following
from tests.soak.reader import sse_events
from tests.soak.server import Server

NUM_TOKENS = 128  # of each answer, as `llamastream bench` has it


class Figures(NamedTuple):
    tokens_per_s: float
    itl_ms: float  # median over all gaps between two tokens of a stream


async def measure(client: httpx.AsyncClient, model: str, num_streams: int, store: bool) -> Figures:
    """One round of streams at the same time."""
    began = time.perf_counter()
    times = await asyncio.gather(
        *(_arrivals(client, model, number, store) for number in range(num_streams))
    )
    seconds = time.perf_counter() - began
    gaps = [b - a for arrivals in times for a, b in zip(arrivals, arrivals[1:], strict=False)]
    num_tokens = sum(map(len, times))
    return Figures(num_tokens / seconds, statistics.median(gaps) * 1000)


async def _arrivals(client: httpx.AsyncClient, model: str, number: int, store: bool) -> list[float]:
    body: dict[str, Any] = {
        "model": model,
        "input": f"Tell me story {number}.",
        "max_output_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        "temperature": 0.0,
        "store": store,
    }
    following = Following(body, f"price-{random.random()}")
    arrivals = []
    async for event in sse_events(following, client):
        following.take(event)
        if event["type"] == "response.output_text.delta":
            arrivals += [time.perf_counter()] * len(event["token_ids"])
    assert len(arrivals) == NUM_TOKENS, following
    return arrivals


async def run(arguments: argparse.Namespace, folder: Path, options: tuple[str, ...]) -> None:
    server = Server(folder, options, model=arguments.model)
    await server.start()
    try:
        timeout = httpx.Timeout(600)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=timeout, limits=limits) as client:
            name = (await client.get("/v1/models")).json()["data"][0]["id"]
            await measure(client, name, arguments.streams, True)  # warm
            pairs = []
            for number in range(arguments.rounds):
                kinds = (True, False) if number % 2 else (False, True)
                found = {
                    store: await measure(client, name, arguments.streams, store) for store in kinds
                }
                pairs.append((found[True], found[False]))
                print(*(f"{k}: {f}" for k, f in (("stored", found[True]), ("not", found[False]))))
    finally:
        await server.stop()
    share = statistics.median(a.tokens_per_s / b.tokens_per_s for a, b in pairs)
    more_ms = statistics.median(a.itl_ms - b.itl_ms for a, b in pairs)
    print(f"throughput={share:.3f} itl_ms={more_ms:+.2f} rounds={len(pairs)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What durability costs.")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(arguments, Path(folder), tuple(options)))


if __name__ == "__main__":
    main()
