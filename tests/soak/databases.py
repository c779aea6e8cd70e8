"""The database under a running server: PostgreSQL killed or hanging, and a full disk.

Each is played with both of `--on-store-failure`: streams that wait until it is back, and streams
that go on without. After each failure the server itself is killed while new streams run: they
must be as durable as before.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from llamastream.store.postgres import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S
from tests.doubles.disk import NotHere, fill, small_disk
from tests.doubles.postgres import Postgres
from tests.soak.rounds import Disturb, Figures, Rounds
from tests.soak.server import Server

POLICIES = ("fail", "continue")
LONG_HANG_S = ANSWER_TIMEOUT_S + CONNECT_TIMEOUT_S + 2  # until streams hear of it
DISK_BYTES = 32 * 2**20  # SQLite's WAL alone comes to some MB


async def _on_postgres(
    fail: Callable[[Postgres, random.Random], Coroutine[Any, Any, None]],
    name: str,
    rounds: int,
    *,
    seed: int,
    folder: Path,
    options: tuple[str, ...] = (),
) -> Figures:
    rng = random.Random(seed)
    with _database() as database:
        more = ("--store", database.url, *options)
        failing = partial(fail, database, rng)
        return await _play(rounds, failing, name, rng=rng, folder=folder, options=more)


async def _crash(database: Postgres, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * 0.6)
    await asyncio.to_thread(database.kill)
    await asyncio.sleep(rng.random() * 2)
    await asyncio.to_thread(database.start)


async def _hang(database: Postgres, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * 0.6)
    try:
        await asyncio.to_thread(database.freeze)
        await asyncio.sleep(rng.choice((rng.random(), LONG_HANG_S)))
    finally:
        await asyncio.to_thread(database.thaw)


postgres = partial(_on_postgres, _crash, "crashes")
hang = partial(_on_postgres, _hang, "hangs")


async def disk(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    rng = random.Random(seed)
    with small_disk(folder / "disk", DISK_BYTES) as small:

        async def fill_a_while() -> None:
            await asyncio.sleep(rng.random() * 0.6)
            await asyncio.to_thread(fill, small / "filler")
            await asyncio.sleep(rng.random() * 2)
            (small / "filler").unlink()

        more = ("--store", f"sqlite:///{small / 'llamastream.db'}", *options)
        return await _play(rounds, fill_a_while, "filled", rng=rng, folder=folder, options=more)


async def _play(
    rounds: int,
    fail: Disturb,
    name: str,
    *,
    rng: random.Random,
    folder: Path,
    options: tuple[str, ...],
) -> Figures:
    """Half of the rounds with each policy."""
    figures = Figures()

    async def kill(server: Server) -> None:
        await asyncio.sleep(rng.random() * 0.2)
        await server.stop()
        figures.events["kills"] += 1
        await server.start()

    for policy, share in zip(POLICIES, (rounds - rounds // 2, rounds // 2), strict=True):
        server = Server(folder, ("--on-store-failure", policy, *options))
        async with server, Rounds(server, rng, figures=figures) as play:
            for _ in range(share):
                await play.play(fail)
                figures.events[name] += 1
                await play.play(play.once_begun(partial(kill, server)))
    return figures


@contextmanager
def _database() -> Iterator[Postgres]:
    try:
        with Postgres.running() as database:
            yield database
    except FileNotFoundError as error:
        raise NotHere(str(error)) from error
