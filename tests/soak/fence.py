"""What the fence costs: the writer that looks in the same statement whether its server still lives,
against one that does not (`unfenced`), taking turns on the same machine and kind of database.

python -m tests.soak.fence --database postgres
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg

from llamastream.generation.log import Log
from llamastream.records import Drawn, NewResponse
from llamastream.sampling import SamplingParams
from llamastream.store import journal
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from tests.doubles.postgres import Postgres
from tests.soak import price, unfenced
from tests.soak.server import Server

NUM_STREAMS, NUM_STEPS, PAUSE_S = 32, 500, 0.002  # of the writer alone
FENCED = journal._INSERT_STEP
Urls = tuple[str, str]  # of a database for each


@contextmanager
def databases(kind: str, folder: Path) -> Iterator[Urls]:
    if kind == "sqlite":
        for name in ("fenced", "unfenced"):
            (folder / name).mkdir()
        yield sqlite_url(folder / "fenced"), sqlite_url(folder / "unfenced")
        return
    with Postgres.running() as server:
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("CREATE DATABASE unfenced")
        yield server.url, server.url.replace("/postgres?", "/unfenced?")


async def step_us(url: str, statement: str) -> tuple[float, float]:
    """Median time until a step is committed, and processor time of this process for it, in us."""
    journal._INSERT_STEP = statement
    async with await Store.open(url) as store:
        ids = [f"resp_{time.time_ns()}_{number}" for number in range(NUM_STREAMS)]
        for id in ids:
            new = NewResponse(id, {}, range(100), SamplingParams(seed=1))
            await store.responses.create(new, scope="")
        logs, times = [Log() for _ in ids], []
        cpu_s = 0.0
        for step in range(NUM_STEPS):
            for number, log in enumerate(logs):
                log.append(0, "", 20_000 + number, None)
            drawn = [Drawn(id, log, step + 1) for id, log in zip(ids, logs, strict=True)]
            began, cpu_began = time.perf_counter(), time.process_time()
            refused = await store.append(drawn)
            times.append(time.perf_counter() - began)
            cpu_s += time.process_time() - cpu_began
            assert not refused
            await asyncio.sleep(PAUSE_S)
        for id in ids:
            await store.responses.delete(id, scope="")
    return statistics.median(times) * 1e6, cpu_s / NUM_STEPS * 1e6


async def steps(urls: Urls, rounds: int) -> None:
    pairs = []
    for _ in range(rounds):
        pairs.append((await step_us(urls[0], FENCED), await step_us(urls[1], unfenced.INSERT_STEP)))
    for n, what in enumerate(("until committed", "processor")):
        a, b = (statistics.median(pair[k][n] for pair in pairs) for k in (0, 1))
        print(f"step of {NUM_STREAMS} streams, {what}: fenced={a:.0f}us unfenced={b:.0f}us")


async def throughput(
    urls: Urls, folder: Path, rounds: int, num_streams: int, options: tuple[str, ...]
) -> None:
    """tokens/s of stored streams at two servers, one of them idle at a time."""
    servers = []
    for name, url in zip(("llamastream", "tests.soak.unfenced"), urls, strict=True):
        (home := folder / f"of-{name}").mkdir()
        more = ("--store", url, "--no-page", *options)
        servers.append(Server(home, more, model="demo", module=name))
    try:
        for server in servers:
            await server.start()
        clients = [httpx.AsyncClient(base_url=one.url, timeout=600) for one in servers]
        shares, durable = [], []
        for client in clients:
            await price.measure(client, "demo", num_streams, True)  # warm
        for number in range(rounds):
            found = {}
            for k in (0, 1) if number % 2 else (1, 0):
                found[k] = await price.measure(clients[k], "demo", num_streams, True)
            plain = await price.measure(clients[0], "demo", num_streams, False)
            shares.append(found[0].tokens_per_s / found[1].tokens_per_s)
            durable.append(found[0].tokens_per_s / plain.tokens_per_s)
            print(f"fenced={found[0]} unfenced={found[1]} not stored={plain}", flush=True)
        for client in clients:
            await client.aclose()
    finally:
        for server in servers:
            await server.stop()
    print(
        f"tokens/s: fenced/unfenced={statistics.median(shares):.3f} "
        f"stored/not={statistics.median(durable):.3f} rounds={rounds}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What the fence costs.")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with databases(arguments.database, folder) as urls:
            asyncio.run(steps(urls, arguments.rounds))
            asyncio.run(
                throughput(urls, folder, arguments.rounds, arguments.streams, tuple(options))
            )


if __name__ == "__main__":
    main()
