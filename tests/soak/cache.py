"""The server is killed while it fills a small cache on disk, whose files are then damaged."""

import asyncio
import random
import shutil
from pathlib import Path

from tests.doubles.disk import block_paths, damage
from tests.soak.rounds import Figures, Rounds
from tests.soak.server import Server

MAX_BYTES = 4 * 2**20  # less than what a round computes: blocks go as others come
DAMAGE_SHARE, REMOVED_SHARE = 0.5, 0.1  # of the rounds
SLACK = 1.25  # a block may be there whole and not be counted yet when a server dies


async def cache(rounds: int, *, seed: int, folder: Path, options: tuple[str, ...] = ()) -> Figures:
    rng = random.Random(seed)
    options = ("--kv-disk-gib", str(MAX_BYTES / 2**30), *options)
    async with Server(folder, options) as server, Rounds(server, rng) as play:
        events = play.figures.events

        async def kill_sometime() -> None:
            await asyncio.sleep(rng.random() * 1.5)
            await server.stop()
            events["kills"] += 1
            events["blocks"] += len(paths := block_paths(folder))
            if paths and rng.random() < DAMAGE_SHARE:
                events["damaged"] += 20
                for _ in range(20):
                    damage(paths, rng)
            elif rng.random() < REMOVED_SHARE:
                events["removed"] += 1
                shutil.rmtree(folder / "kv")
            await server.start()

        for number in range(rounds):
            await play.play(kill_sometime)
            sizes = {found.st_ino: found.st_size for found in map(Path.stat, block_paths(folder))}
            if sum(sizes.values()) > MAX_BYTES * SLACK:
                play.figures.problems.append(f"round {number}: {sum(sizes.values())} bytes on disk")
    return play.figures
