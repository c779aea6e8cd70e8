"""Put one workload on one server and keep what each request met.

A request that fails is an outcome with its error; it never ends the run. Times are
time.perf_counter().
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult

from llamastream.bench.errors import ServerFailed
from llamastream.bench.exchange import Exchange, build_request, connect
from llamastream.bench.openai import PATHS, RequestOptions, Timeline, read_timeline
from llamastream.bench.workload import Workload, make_prompts, poisson_arrivals

BACKGROUND_POLL_S = 0.05
BACKGROUND_PROMPT_TOKENS, BACKGROUND_OUTPUT_TOKENS = 64, 512
BACKGROUND_TOKENS = 2  # a background stream counts as running once it received so many


@dataclass(frozen=True, slots=True)
class Target:
    """One server under test. `url` is the base, with its `/v1`; `prompt_overhead` is the number of
    tokens that the server counts beyond a prompt's words (BOS, chat template)."""

    name: str
    url: SplitResult
    model: str
    api_key: str | None = None
    prompt_overhead: int = 0


class Outcome(NamedTuple):
    """One request: sent (or, in an open loop, due) at `sent_s`, then answered or failed."""

    sent_s: float
    timeline: Timeline | None
    error: str | None = None


class LoadResult(NamedTuple):
    measured: list[Outcome]
    background: list[Outcome]  # cut at the end of the measured ones


async def run_workload(
    target: Target, options: RequestOptions, workload: Workload, *, seed: str
) -> LoadResult:
    """Run a workload and return when its measured requests have ended.

    The same seed gives the same prompts, whatever the target: use one only once on a server, or its
    prefix cache answers. Raises ServerFailed only if the background streams cannot be started.
    """
    client = _Client(target, options)
    prompts = client.prompts(workload.num_requests, workload.prompt_tokens, seed=seed)
    async with _background(client, workload, seed=seed) as background:
        if workload.request_rate is not None:
            due_s = poisson_arrivals(
                workload.request_rate, len(prompts), seed=0
            )  # as in every round
            measured = await _open_loop(client, prompts, due_s, workload.output_tokens)
        else:
            measured = await _closed_loop(
                client, prompts, workload.concurrency or 1, workload.output_tokens
            )
    return LoadResult(
        [attempt.outcome() for attempt in measured],
        [attempt.outcome() for attempts in background for attempt in attempts],
    )


@dataclass(slots=True)
class _Attempt:
    sent_s: float
    exchange: Exchange | None = None
    error: str | None = None
    cut: bool = False  # by us, not by the server

    def timeline(self, *, partial: bool = False) -> Timeline | None:
        """What has come, decoded; None before the headers. Raises ServerFailed."""
        if self.error is not None:
            raise ServerFailed(self.error)
        reply = self.exchange.reply() if self.exchange else None
        return read_timeline(reply, partial=partial) if reply else None

    def outcome(self) -> Outcome:
        try:
            timeline = self.timeline(partial=self.cut)
        except ServerFailed as error:
            return Outcome(self.sent_s, None, error.message)
        if timeline is None and not self.cut:
            return Outcome(self.sent_s, None, "the server closed the connection without an answer")
        return Outcome(self.sent_s, timeline)


class _Client:
    """Sends requests to one target, each on its own connection, and decodes nothing."""

    def __init__(self, target: Target, options: RequestOptions) -> None:
        self._target = target
        self._options = options
        path = target.url.path + PATHS[options.api]
        self._url = target.url._replace(path=path)
        self._headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}

    def prompts(self, count: int, num_tokens: int, *, seed: str) -> list[str]:
        return make_prompts(count, max(1, num_tokens - self._target.prompt_overhead), seed=seed)

    async def ask(self, attempt: _Attempt, prompt: str, max_tokens: int) -> None:
        """Send a prompt and wait until the server has closed the connection."""
        body = self._options.body(self._target.model, prompt, max_tokens)
        try:
            async with asyncio.timeout(self._options.timeout_s):
                transport, attempt.exchange = await connect(
                    self._url, build_request(self._url, self._headers, body)
                )
                try:
                    await attempt.exchange.closed
                finally:
                    transport.abort()
        except ServerFailed as error:
            attempt.error = error.message
        except TimeoutError:
            attempt.error = f"the answer had not ended after {self._options.timeout_s:g} s"
        except asyncio.CancelledError:
            attempt.cut = True
            raise


async def _closed_loop(
    client: _Client, prompts: Sequence[str], concurrency: int, max_tokens: int
) -> list[_Attempt]:
    attempts: list[_Attempt] = []
    waiting = iter(prompts)

    async def stream() -> None:
        for prompt in waiting:
            attempts.append(attempt := _Attempt(time.perf_counter()))
            await client.ask(attempt, prompt, max_tokens)

    await asyncio.gather(*(stream() for _ in range(concurrency)))
    return attempts


async def _open_loop(
    client: _Client, prompts: Sequence[str], due_s: Sequence[float], max_tokens: int
) -> list[_Attempt]:
    """Latency counts from the time a request was due, so a late client flatters nobody."""
    start_s = time.perf_counter()
    attempts = [_Attempt(start_s + due) for due in due_s]

    async def send(attempt: _Attempt, prompt: str) -> None:
        await asyncio.sleep(attempt.sent_s - time.perf_counter())
        await client.ask(attempt, prompt, max_tokens)

    await asyncio.gather(*map(send, attempts, prompts))
    return attempts


@asynccontextmanager
async def _background(
    client: _Client, workload: Workload, *, seed: str
) -> AsyncIterator[list[list[_Attempt]]]:
    """Keep the workload's background streams running, and yield once each has received text.

    Their first answers have different lengths, or all of them would end and start together.
    """
    streams: list[list[_Attempt]] = [[] for _ in range(workload.background)]

    async def run(stream: int) -> None:
        length = BACKGROUND_OUTPUT_TOKENS * (stream + 1) // workload.background
        for turn in itertools.count():
            prompt_seed = f"{seed}/background/{stream}/{turn}"
            (prompt,) = client.prompts(1, BACKGROUND_PROMPT_TOKENS, seed=prompt_seed)
            streams[stream].append(attempt := _Attempt(time.perf_counter()))
            await client.ask(attempt, prompt, max(length, BACKGROUND_TOKENS))
            if attempt.outcome().error is not None:
                return  # the whole workload has failed: asking again would only load the machine
            length = BACKGROUND_OUTPUT_TOKENS

    tasks = [asyncio.create_task(run(stream)) for stream in range(workload.background)]
    try:
        # Text is found only by decoding, so no event can announce it.
        while not all([_has_started(attempts) for attempts in streams]):  # noqa: ASYNC110
            await asyncio.sleep(BACKGROUND_POLL_S)
        yield streams
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _has_started(attempts: Sequence[_Attempt]) -> bool:
    """Whether a background stream has text. Raises ServerFailed if it has already failed."""
    timelines = [attempt.timeline(partial=True) for attempt in attempts]
    return any(t and len(t.token_times_s) >= BACKGROUND_TOKENS for t in timelines)
