"""A scripted engine: answers token ids without computing them, as fast or as slow as a test says.

It keeps the engine's contract (one Finished or Failed per request, cancel within one step) and
counts, so that a test can see what the service did to it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llamastream.errors import ChatError, ContextLengthExceeded, EngineDead, Overloaded
from llamastream.types import (
    EngineState,
    EngineStatus,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptTokens,
    Token,
)

Script = Callable[[GenerationRequest], Sequence[int]]


@dataclass
class _Running:
    request: GenerationRequest
    ids: Sequence[int]
    position: int = 0


@dataclass
class FakeEngine:
    """`script` gives the ids a request will draw; without an end of its own the last id repeats.

    With `manual`, a step is computed only when the test calls `allow`. A step draws
    `tokens_per_step` tokens of each request, as one with drafts does.
    """

    script: Script
    manual: bool = False
    max_num_seqs: int = 32
    max_num_waiting: int = 100_000
    max_model_len: int = 4096
    tokens_per_step: int = 1
    vocab_size: int = 259
    retry_after_s: int = 7
    state: EngineState = EngineState.READY
    submitted: list[GenerationRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    num_steps: int = 0
    num_refused: int = 0

    def __post_init__(self) -> None:
        self._alive: dict[str, _Running] = {}
        self._events: list[Event] = []
        self._permits = 0
        self._news = asyncio.Event()
        self._has_crashed = False
        self._task: asyncio.Task[None] | None = None

    def start(self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]) -> None:
        self._task = asyncio.create_task(self._run(on_events, on_end), name="fake engine")

    async def stop(self) -> None:
        self.die(EngineDead("The engine stopped before the answer was complete."))
        assert self._task is not None
        await self._task

    async def ready(self) -> None:
        while self.state is EngineState.LOADING:
            self._news.clear()
            await self._news.wait()

    def check_room(self, scope: str, count: int) -> None:
        limit = self.max_num_seqs + self.max_num_waiting
        if len(self._alive) + count > limit:
            self.num_refused += 1
            raise Overloaded(
                f"The queue is full: {self.max_num_waiting}.", retry_after_s=self.retry_after_s
            )

    def submit(self, request: GenerationRequest) -> None:
        if self.state is not EngineState.READY:
            raise EngineDead("The engine has stopped.")
        self.check_room(request.scope, 1)
        if len(request.prompt_ids) + (request.sampling.max_tokens or 1) > self.max_model_len:
            raise ContextLengthExceeded("prompt + max_tokens do not fit.", param="max_tokens")
        self.submitted.append(request)
        known = len(request.output_ids)
        self._alive[request.request_id] = _Running(request, self.script(request), known)
        self._news.set()

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        if self._alive.pop(request_id, None) is not None:
            self._events.append(Finished(request_id, FinishReason.CANCELLED, 0, 0, 0))
        self._news.set()

    def status(self) -> EngineStatus:
        running = min(len(self._alive), self.max_num_seqs)
        waiting = len(self._alive) - running
        free = 1000 - running  # each running request holds one of a thousand blocks
        limits = (self.max_model_len, self.vocab_size)
        drafted, accepted = 3 * self.num_steps, 2 * self.num_steps
        return EngineStatus(self.state, *limits, running, waiting, 1000, free, drafted, accepted)

    async def _run(
        self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]
    ) -> None:
        while (self.state is not EngineState.DEAD or self._events) and not self._has_crashed:
            if self._alive and (not self.manual or self._permits > 0):
                self._permits -= 1
                self._step()
            if self._events:
                events, self._events = self._events, []
                on_events(events)
                await asyncio.sleep(0)  # the readers' turn
            elif not self._alive or (self.manual and self._permits <= 0):
                self._news.clear()
                await self._news.wait()
        on_end()

    # What only tests call.

    @property
    def num_alive(self) -> int:
        return len(self._alive)

    def become_ready(self) -> None:
        self.state = EngineState.READY
        self._news.set()

    def allow(self, num_steps: int = 1) -> None:
        self._permits = max(self._permits, 0) + num_steps
        self._news.set()

    def fail(self, request_id: str, error: ChatError) -> None:
        """One request fails in the middle."""
        del self._alive[request_id]
        self._events.append(Failed(request_id, error))
        self._news.set()

    def die(self, error: ChatError) -> None:
        """The engine stops for good and says so to everybody."""
        self.state = EngineState.DEAD
        self._events += [Failed(request_id, error) for request_id in self._alive]
        self._alive.clear()
        self._news.set()

    def crash(self) -> None:
        """It ends without a word to anybody: a bug in the engine."""
        self._has_crashed = True
        self._news.set()

    def _step(self) -> None:
        self.num_steps += 1
        for seq in list(self._alive.values())[: self.max_num_seqs]:
            for _ in range(self.tokens_per_step):
                if self._alive.get(seq.request.request_id) is seq:
                    self._advance(seq)

    def _advance(self, seq: _Running) -> None:
        request, sampling = seq.request, seq.request.sampling
        if request.prompt_logprobs is not None and not seq.position:
            asked, ids = request.prompt_logprobs, request.prompt_ids[1:]
            tokens = (_token(request, at, i, asked) for at, i in enumerate(ids, 1))
            self._events.append(PromptTokens(request.request_id, tuple(tokens)))
        token_id = seq.ids[min(seq.position, len(seq.ids) - 1)]
        max_tokens = sampling.max_tokens
        if max_tokens is None:
            max_tokens = self.max_model_len - len(request.prompt_ids)
        reason = None
        if max_tokens:
            self._events.append(_token(request, seq.position, token_id, sampling.logprobs))
            seq.position += 1
        if max_tokens and token_id in sampling.stop_token_ids:
            reason = FinishReason.STOP
        elif seq.position == max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            del self._alive[request.request_id]
            num_prompt = len(request.prompt_ids)
            self._events.append(Finished(request.request_id, reason, num_prompt, 0, seq.position))


def _token(request: GenerationRequest, position: int, token_id: int, asked: int | None) -> Token:
    if asked is None:
        return Token(request.request_id, position, token_id)
    top = tuple((token_id + i, -0.5 - i) for i in range(asked))
    return Token(request.request_id, position, token_id, -0.5, top)
