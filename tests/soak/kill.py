"""The server ends in the middle of streams: by kill -9, or by SIGTERM, and is started again."""

import asyncio
import random
import signal
from pathlib import Path

from tests.soak.rounds import Figures, Rounds
from tests.soak.server import Server

TERM_SHARE = 0.2  # of all ends: SIGTERM, which parks what is not done in time
DRAIN_TIMEOUT_S = 0.1


async def kill(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    rng = random.Random(seed)
    options = ("--drain-timeout", str(DRAIN_TIMEOUT_S), *options)
    async with Server(folder, options) as server, Rounds(server, rng) as play:

        async def kill_sometime() -> None:
            for _ in range(rng.choice((1, 1, 1, 2))):
                await asyncio.sleep(rng.random() * 0.6)
                is_gentle = rng.random() < TERM_SHARE
                await server.stop(signal.SIGTERM if is_gentle else signal.SIGKILL)
                play.figures.events["terms" if is_gentle else "kills"] += 1
                await server.start()

        for _ in range(rounds):
            await play.play(kill_sometime)
    return play.figures
