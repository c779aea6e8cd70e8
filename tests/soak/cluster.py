"""Three servers on one PostgreSQL, and what becomes of streams when one of them dies or hangs.

Readers come through no balancer: each connection goes to a server drawn by chance, so that most
streams are read, and read on, where they are not generated. Streams last for seconds (see `paced`),
so that there are some under way whatever is done.
"""

import asyncio
import random
import re
import signal
import statistics
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.doubles.disk import NotHere
from tests.doubles.postgres import Postgres
from tests.soak.following import Following
from tests.soak.paced import POISON_SEED
from tests.soak.reader import Doors, Transport, follow
from tests.soak.relay import Relay
from tests.soak.rounds import Figures, Rounds
from tests.soak.server import MODEL_NAME, START_LIMIT_S, Server, free_port

NUM_SERVERS = 3
MAX_LATER_S = 1.0  # that it is done after half of the streams have begun
ROLLING_S = 8.0  # about what it takes to start three servers one after the other
HUNG_S = 10.0  # twice what the others wait
SHORT_SILENCE_S, LONG_SILENCE_S = 3.0, 20.0
OPTIONS = ("--no-page", "--ping-interval-s", "0.2")
SILENCE_S = 1.5  # when a reader gives up a silent server


class AnyDoor(Doors):
    """Each connection is to a server drawn by chance, but not to the one that the reader left."""

    def __init__(self, doors: list[Doors], rng: random.Random) -> None:
        self._doors = doors
        self._rng = rng
        self.client = doors[0].client

    def events(
        self, following: Following, transport: Transport
    ) -> AsyncGenerator[dict[str, Any], None]:
        others = [number for number in range(len(self._doors)) if number != following.door]
        following.door = self._rng.choice(others)
        return self._doors[following.door].events(following, transport)


class Cluster:
    def __init__(self, servers: list[Server], database: Postgres, relay: Relay) -> None:
        self.servers = servers
        self.database = database
        self.relay = relay  # between the last server and the database
        self.problems: list[str] = []

    def count(self, words: str) -> int:
        """Lines of all logs that have these."""
        logs = [(server.folder / "log").read_text() for server in self.servers]
        return sum(len(re.findall(words, log)) for log in logs)

    async def healthy(self, server: Server) -> None:
        async with httpx.AsyncClient() as client, asyncio.timeout(START_LIMIT_S):
            while not await server.is_ready(client):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


Disturbance = Callable[[Cluster, Doors, random.Random], Coroutine[Any, Any, None]]


async def _killed(cluster: Cluster, _: Doors, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * MAX_LATER_S)
    server = rng.choice(cluster.servers)
    await server.stop()
    await asyncio.sleep(rng.choice((0.0, 2.0)))
    await server.start()


async def _stopped(cluster: Cluster, _: Doors, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * MAX_LATER_S)
    if rng.random() < 0.5:
        server = rng.choice(cluster.servers)
        server.send(signal.SIGSTOP)
    else:
        server = await asyncio.to_thread(_stop_in_transaction, cluster)
    await asyncio.sleep(HUNG_S)
    server.send(signal.SIGCONT)
    await cluster.healthy(server)


def _stop_in_transaction(cluster: Cluster) -> Server:
    """While it waits for a lock, which it then gets."""
    with psycopg.connect(cluster.database.url) as conn:
        conn.execute("LOCK TABLE scope_usage IN EXCLUSIVE MODE")
        waiting = "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        for _ in range(1000):
            for (session,) in conn.execute(waiting).fetchall():
                for number, server in enumerate(cluster.servers):
                    if f"llamastream s{number}-" in session:
                        server.send(signal.SIGSTOP)
                        return server
            conn.execute("SELECT pg_sleep(0.01)")
    cluster.servers[0].send(signal.SIGSTOP)  # all streams have ended
    return cluster.servers[0]


async def _silent(cluster: Cluster, _: Doors, rng: random.Random, *, seconds: float) -> None:
    await asyncio.sleep(rng.random() * MAX_LATER_S)
    cluster.relay.is_through.clear()
    await asyncio.sleep(seconds)
    cluster.relay.is_through.set()
    await cluster.healthy(cluster.servers[-1])


async def _told_to_stop(cluster: Cluster, _: Doors, rng: random.Random) -> None:
    """One after the other."""
    for server in cluster.servers:
        await server.stop(signal.SIGTERM)
        await server.start()


async def _database_killed(cluster: Cluster, _: Doors, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * MAX_LATER_S)
    await asyncio.to_thread(cluster.database.kill)
    await asyncio.sleep(rng.random() * 2)
    await asyncio.to_thread(cluster.database.start)


async def _database_hangs(cluster: Cluster, _: Doors, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * MAX_LATER_S)
    await asyncio.to_thread(cluster.database.freeze)
    await asyncio.sleep(HUNG_S)
    await asyncio.to_thread(cluster.database.thaw)


async def _poisoned(cluster: Cluster, door: Doors, rng: random.Random) -> None:
    """A request ends each process that computes it, and all of these are started again."""
    ended: list[Server] = []

    async def keep_up(server: Server) -> None:
        while True:
            await server.ended()
            ended.append(server)
            await server.start()

    keeping = [asyncio.create_task(keep_up(server)) for server in cluster.servers]
    body = {"model": MODEL_NAME, "input": "Once", "seed": POISON_SEED}
    poison = Following(body, f"poison-{rng.random()}")
    await follow(poison, door, silence_s=SILENCE_S)
    for server in cluster.servers:
        await cluster.healthy(server)
    for task in keeping:
        task.cancel()
    if (poison.status, len(ended)) != ("failed", 3):
        cluster.problems.append(f"poison: {poison.status} after {len(ended)} ends")


async def _scenario(
    disturb: Disturbance,
    rounds: int,
    *,
    seed: int,
    folder: Path,
    options: tuple[str, ...] = (),
    is_taken_over: bool = True,
    spread_s: float = 0.2,
    harmless: str = ".*",
) -> Figures:
    """`harmless`: what error events may say."""
    rng = random.Random(seed)
    async with running_cluster(folder, options) as cluster, AsyncExitStack() as stack:
        doors = [
            await stack.enter_async_context(Doors(server.port, server.grpc_port))
            for server in cluster.servers
        ]
        (home := folder / "reference").mkdir()
        reference = await stack.enter_async_context(Server(home))
        door = AnyDoor(doors, rng)
        play = Rounds(reference, rng, doors=door, silence_s=SILENCE_S, spread_s=spread_s)
        await stack.enter_async_context(play)
        pauses = []
        for _ in range(rounds):
            disturbed = play.once_begun(partial(disturb, cluster, door, rng))
            await play.play(disturbed, least=32, most=48)
            pauses.append(max(reader.longest_pause_s for reader in play.readers))
        figures = play.figures
        figures.problems += cluster.problems
        figures.events["fenced"] = cluster.count("taken for dead")
        if figures.events["fenced"] and not is_taken_over:
            figures.problems.append("a living server was taken for dead")
        false = [error for error in figures.errors if not re.match(harmless, error)]
        figures.problems += [f"an error event that should not be: {error}" for error in false]
        figures.pauses_s = pauses
        figures.notes.append(
            f"longest pause of a stream: median {statistics.median(pauses):.2f} s, "
            f"most {max(pauses):.2f} s of {[round(pause, 2) for pause in pauses]}"
        )
    figures.resumed = sum(server.num_resumed() for server in cluster.servers)
    return figures


@asynccontextmanager
async def running_cluster(folder: Path, options: tuple[str, ...] = ()) -> AsyncIterator[Cluster]:
    port = free_port()
    async with AsyncExitStack() as stack:
        try:
            database = stack.enter_context(Postgres.running(port=port))
        except FileNotFoundError as error:
            raise NotHere(str(error)) from error
        relay = await stack.enter_async_context(Relay.to(port))
        servers = []
        for number in range(NUM_SERVERS):
            way = relay.port if number == NUM_SERVERS - 1 else port
            url = f"postgresql://postgres@127.0.0.1:{way}/postgres"
            more = ("--store", url, "--server-name", f"s{number}", *OPTIONS, *options)
            (home := folder / f"s{number}").mkdir()
            servers.append(Server(home, more, module="tests.soak.paced"))
            stack.push_async_callback(servers[-1].stop)
        cluster = Cluster(servers, database, relay)
        await asyncio.gather(*(server.start() for server in servers))
        yield cluster


takeover = partial(_scenario, _killed)
zombie = partial(_scenario, _stopped)
partition = partial(_scenario, partial(_silent, seconds=LONG_SILENCE_S))
short_partition = partial(_scenario, partial(_silent, seconds=SHORT_SILENCE_S), is_taken_over=False)
rolling = partial(
    _scenario,
    _told_to_stop,
    spread_s=ROLLING_S,
    options=("--drain-timeout", "1"),  # so that some readers are sent away, and others are not
    harmless="response_interrupted:|engine_unavailable: The server is stopping",
)
poison = partial(_scenario, _poisoned)
cluster_postgres = partial(_scenario, _database_killed, is_taken_over=False)
cluster_hang = partial(_scenario, _database_hangs, is_taken_over=False)
