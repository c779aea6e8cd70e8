"""The soak: streams under every failure that we promise to survive.

python -m tests.soak --scenario rst --rounds 20
"""

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.doubles.disk import NotHere
from tests.soak.cache import cache
from tests.soak.cluster import (
    cluster_hang,
    cluster_postgres,
    partition,
    poison,
    rolling,
    short_partition,
    takeover,
    zombie,
)
from tests.soak.databases import disk, hang, postgres
from tests.soak.dying_readers import reader
from tests.soak.kill import calls, kill
from tests.soak.network import half_open, rst
from tests.soak.rounds import Figures
from tests.soak.slow import slow
from tests.soak.verifying import verify

# With the rounds that each plays unless told otherwise.
SCENARIOS: dict[str, tuple[Callable[..., Coroutine[Any, Any, Figures]], int]] = {
    "kill": (kill, 200),
    "calls": (calls, 100),
    "cache": (cache, 100),
    "reader": (reader, 20),
    "rst": (rst, 20),
    "half-open": (half_open, 10),
    "slow": (slow, 3),
    "postgres": (postgres, 20),
    "hang": (hang, 8),
    "disk": (disk, 20),
    "takeover": (takeover, 100),
    "zombie": (zombie, 50),
    "partition": (partition, 30),
    "short-partition": (short_partition, 30),
    "rolling": (rolling, 20),
    "poison": (poison, 10),
    "cluster-postgres": (cluster_postgres, 10),
    "cluster-hang": (cluster_hang, 5),
    "verify": (verify, 1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Streams under failures. More options: of serve.")
    parser.add_argument("--scenario", choices=("all", *SCENARIOS), default="all")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no server is left behind
    names = list(SCENARIOS) if arguments.scenario == "all" else [arguments.scenario]
    num_problems = sum(
        _play(name, arguments.rounds, arguments.seed, tuple(options)) for name in names
    )
    raise SystemExit(bool(num_problems))


def _play(name: str, rounds: int | None, seed: int, options: tuple[str, ...]) -> int:
    """Print a scenario's figures, and return the number of its problems."""
    scenario, usual_rounds = SCENARIOS[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures = asyncio.run(
                scenario(rounds or usual_rounds, seed=seed, folder=Path(folder), options=options)
            )
        except NotHere as reason:
            print(f"{name}: skipped, {reason}", flush=True)
            return 0
    errors = [f"{count} times an error event: {text}" for text, count in figures.errors.items()]
    print(*figures.problems, *errors, *figures.notes, sep="\n")
    print(f"{name}: {figures} seconds={time.monotonic() - began:.0f}", flush=True)
    return len(figures.problems)


if __name__ == "__main__":
    main()
