"""Readers that die: processes killed in the middle, each followed by one that goes on for it.

What a reader had taken and told nobody is lost with it; the next one goes on behind what is known.
"""

import asyncio
import multiprocessing
import random
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.soak.following import Following
from tests.soak.reader import FAULTS, RETRY_S, Doors, Transport
from tests.soak.rounds import Figures, Rounds
from tests.soak.server import Server

MOST_READERS = 16  # of a round, since each is a process
MAX_LIFE = 400  # events


def read_until_killed(
    following: Following, transport: Transport, ports: tuple[int, int], sender: Connection
) -> None:
    """Send every event on."""
    asyncio.run(_read(following, transport, ports, sender))


async def _read(
    following: Following, transport: Transport, ports: tuple[int, int], sender: Connection
) -> None:
    async with Doors(*ports) as doors:
        while following.status is None:
            try:
                async with aclosing(doors.events(following, transport)) as stream:
                    async for event in stream:
                        sender.send(event)
                        following.take(event)
                        if following.status is not None:
                            break
            except FAULTS:
                await asyncio.sleep(RETRY_S)


class DyingReaders(Rounds):
    """Forks its readers from a process in which all is imported."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        super().__init__(server, rng)
        self._ports = (server.port, server.grpc_port)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload([__name__])
        self._threads = ThreadPoolExecutor(MOST_READERS)

    async def __aexit__(self, *exit: object) -> None:
        await super().__aexit__(*exit)
        self._threads.shutdown()

    async def follow(self, reader: Following, transport: Transport, leave_chance: float) -> None:
        while reader.status is None:
            reader.num_connections += 1
            async with aclosing(self._life(reader, transport)) as life:
                async for event in life:
                    reader.take(event)
                    if reader.status is not None:
                        break

    async def _life(
        self, reader: Following, transport: Transport
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events that one process told of before it was killed or was done."""
        receiver, sender = self._processes.Pipe(duplex=False)
        process = self._processes.Process(
            target=read_until_killed, args=(reader, transport, self._ports, sender)
        )
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, process.start)
        sender.close()
        num_left = self._rng.randint(1, MAX_LIFE)
        try:
            while num_left > 0:
                events = await loop.run_in_executor(self._threads, _receive, receiver)
                for event in events[:num_left]:
                    yield event
                num_left -= len(events)
            self.figures.events["deaths"] += 1
        except EOFError:
            return
        finally:
            process.kill()
            await loop.run_in_executor(self._threads, process.join)
            process.close()
            receiver.close()


def _receive(receiver: Connection) -> list[dict[str, Any]]:
    """At least one event. Raises EOFError when the process has ended."""
    events = [receiver.recv()]
    while receiver.poll():
        events.append(receiver.recv())
    return events


async def reader(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    rng = random.Random(seed)

    async def nothing() -> None:
        """The readers are the trouble."""

    async with Server(folder, options) as server, DyingReaders(server, rng) as play:
        for _ in range(rounds):
            await play.play(nothing, most=MOST_READERS)
    return play.figures
