"""From the command that starts a server to its first token, as somebody waiting for it sees it.

Nothing is known of the server but its command and its URL: it is asked again and again until it
answers.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from llamastream.bench.console import progress
from llamastream.bench.errors import BenchError
from llamastream.bench.load import Outcome, Target, run_workload
from llamastream.bench.openai import RequestOptions
from llamastream.bench.probe import ServerUrl, first_model
from llamastream.bench.summary import Spread, spread
from llamastream.bench.workload import Workload

POLL_S = 0.02  # between two attempts; short beside what is measured, long beside what one costs
STOP_TIMEOUT_S = 10.0
START_TIMEOUT_S = 120.0
FIRST_TOKEN = Workload("first token", 64, 1, num_requests=1, concurrency=1)


class StartedServer(NamedTuple):
    """A server that `command` starts, to be reached at `address` afterwards."""

    command: tuple[str, ...]
    address: ServerUrl


async def run_starts(servers: Sequence[StartedServer], rounds: int) -> dict[str, Spread]:
    """Seconds to the first token by server name, servers in turn. Raises BenchError.

    The first round is not counted: it fills the disk cache, and ours packs its weights.
    """
    times_s: dict[str, list[float]] = {server.address.name: [] for server in servers}
    for number in range(rounds + 1):
        for server in servers:
            name = server.address.name
            progress(f"start {name}, {f'round {number}' if number else 'not counted'}")
            elapsed_s = await start_once(server)
            if number:
                times_s[name].append(elapsed_s)
    return {name: spread(values) for name, values in times_s.items()}


async def start_once(server: StartedServer, *, timeout_s: float = START_TIMEOUT_S) -> float:
    """Start the server, wait for one token, stop it. Returns the seconds to that token."""
    name = server.address.name
    await _check_port_is_free(server)
    start_s = time.perf_counter()
    async with _running(server) as process:
        while True:
            outcome = await _ask(server.address, timeout_s)
            if outcome is not None and outcome.timeline is not None:
                return outcome.timeline.token_times_s[0] - start_s
            if process.poll() is not None:
                raise BenchError(
                    f"{name} ended with code {process.returncode} before its first token. "
                    f"Its command: {' '.join(server.command)}"
                )
            if time.perf_counter() - start_s > timeout_s:
                seen = outcome.error if outcome else "no answer"
                raise BenchError(f"{name} gave no token in {timeout_s:g} s: {seen}")
            await asyncio.sleep(POLL_S)


async def _ask(address: ServerUrl, timeout_s: float) -> Outcome | None:
    try:
        model = await first_model(address, None)
    except BenchError:
        return None  # not there yet, or still loading
    target = Target(address.name, address.url, model)
    options = RequestOptions(timeout_s=timeout_s)
    return (await run_workload(target, options, FIRST_TOKEN, seed="start")).measured[0]


async def _check_port_is_free(server: StartedServer) -> None:
    url = server.address.url
    try:
        _, writer = await asyncio.open_connection(url.hostname, url.port)
    except OSError:
        return
    writer.close()
    raise BenchError(f"{url.netloc} is in use: stop what listens there, or give another port")


@asynccontextmanager
async def _running(server: StartedServer) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The started command, in a process group of its own that is ended with it."""
    try:
        process = subprocess.Popen(  # noqa: ASYNC220  (the loop has nothing else to do)
            server.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise BenchError(f"cannot run {server.command[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
