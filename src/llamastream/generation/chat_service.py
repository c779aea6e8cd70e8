"""Joins text and engine: a ChatRequest becomes engine requests, their events become streams.

The engine calls with each step's events: tokens to text, stop strings, then `_publish`, the one
place where a step's deltas reach their streams. The invariant: an opened stream ends in one finish
per choice or in one error, and an engine request never outlives the last reader of its stream.
"""

import logging
import secrets
import time
from dataclasses import replace
from typing import Protocol

from llamastream.errors import ChatError, EngineDead, InternalError
from llamastream.generation.choice import Choice, TextRules
from llamastream.generation.flight import Flight
from llamastream.generation.prompting import Prompting
from llamastream.generation.protocol import Engine
from llamastream.generation.stream import Stream
from llamastream.metrics import Metrics
from llamastream.sampling import MAX_SEED, SamplingParams
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import (
    ChatRequest,
    Delta,
    EngineState,
    EngineStatus,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    Token,
)

logger = logging.getLogger(__name__)

DEFAULT_SAMPLING = SamplingParams()
CHOICE_SEED_STEP = 0x9E3779B97F4A7C15  # docs/sampling.md: choice i draws with seed + i * this


class OtherRequests(Protocol):
    """Who takes the events of engine requests that are not this service's own."""

    def advance(self, events: list[Event]) -> None:
        """Some of one or more steps, in order."""
        ...

    def engine_ended(self, error: ChatError) -> None:
        """No more events will come."""
        ...


class ChatService:
    """Belongs to one event loop. Owns the engine: starts it and stops it."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompts: PromptBuilder,
        *,
        model_name: str,
        model_id: str = "",
        sampling: SamplingParams = DEFAULT_SAMPLING,
    ) -> None:
        """`model_id` changes with whatever changes an answer: weights, tokenizer, precision.
        `sampling` holds the model's own defaults, for what a request leaves out.
        """
        self.model_name = model_name
        self.model_id = model_id
        self.sampling = sampling
        self.metrics = Metrics(engine.status)
        self.prompting = Prompting(tokenizer, prompts)
        self.engine = engine
        self.tokenizer = tokenizer
        self.others: OtherRequests | None = None
        self._flights: dict[str, Flight] = {}  # by engine request id
        self._is_started = False
        self._is_over = False  # no more steps will come
        self._is_draining = False

    async def start(self) -> None:
        """Start the engine, which then loads. Idempotent."""
        if not self._is_started:
            self._is_started = True
            self.engine.start(self._on_events, self._on_end)

    async def stop(self) -> None:
        """Stop the engine and fail the streams that are open."""
        if self._is_started:
            await self.engine.stop()

    def status(self) -> EngineStatus:
        return self.engine.status()

    @property
    def is_draining(self) -> bool:
        """True once the server is stopping: streams that are open go on, no new one is opened."""
        return self._is_draining

    def drain(self) -> None:
        """Refuse new requests from here on."""
        self._is_draining = True

    def check_ready(self) -> EngineStatus:
        """The engine's limits. Raises EngineDead unless a request may be opened."""
        status = self.engine.status()
        if self._is_draining:
            raise EngineDead("The server is stopping. Try again in a few seconds.")
        if status.state is not EngineState.READY or self._is_over:
            raise _not_ready(status.state)
        return status

    def is_ready(self) -> bool:
        """Whether `open` takes requests now."""
        return self.status().state is EngineState.READY and not self._is_draining

    @property
    def num_open(self) -> int:
        """Engine requests whose end has not been seen yet."""
        return len(self._flights)

    async def open(self, request: ChatRequest) -> Stream:
        """Admit a request with all its choices, or none. The caller closes the stream.

        Raises InvalidRequest, ContextLengthExceeded, Overloaded or EngineDead.
        """
        limits = self.check_ready()
        fitted = [
            await self.prompting.fit(replace(request, prompt=prompt), limits)
            for prompt in (request.prompt, *request.more_prompts)
        ]
        flight = Flight(
            request,
            tuple(tuple(one.ids) for one in fitted),
            num_dropped_turns=fitted[0].num_dropped_turns,  # a chat is one prompt
            cancel=self.engine.cancel,
        )
        try:
            for index in range(len(fitted) * request.n):
                self._submit(flight, request, index)
        except Exception as error:
            self._forget(flight)
            outcome = error.code if isinstance(error, ChatError) else InternalError.code
            self.metrics.requests.labels(outcome).inc()
            raise
        return flight.stream

    def _submit(self, flight: Flight, request: ChatRequest, index: int) -> None:
        """Submit one choice. It draws what it would with its prompt alone. Raises ChatError."""
        prompt, number = divmod(index, request.n)
        prompt_ids = flight.stream.prompts[prompt]
        rules = TextRules.of(request, prompt_ids, self.tokenizer)
        choice = Choice(index, self.tokenizer, rules, flight.stream.next_sequence_number)
        generation = GenerationRequest(
            request_id=f"{flight.stream.id}-{index}",
            prompt_ids=prompt_ids,
            sampling=for_choice(request.sampling, number, rules.stop_token_ids),
            cache_salt=request.scope.encode(),
            scope=request.scope,
        )
        self.engine.submit(generation)
        flight.choices[generation.request_id] = choice
        flight.alive.add(generation.request_id)
        self._flights[generation.request_id] = flight

    def _on_events(self, events: list[Event]) -> None:
        self.metrics.output_tokens.inc(sum(isinstance(event, Token) for event in events))
        try:
            self._advance(events)
        except Exception:  # who has seen which of these events is not known any more
            logger.exception("failed on a step's events")
            self._end(InternalError("Internal error: the engine's steps failed."))

    def _on_end(self) -> None:
        self._end(EngineDead("The engine stopped before the answer was complete."))

    def _end(self, error: ChatError) -> None:
        """Fail what is open and take nothing more."""
        if self._is_over:
            return
        self._is_over = True
        for flight in set(self._flights.values()):
            self._fail(flight, error)
        if self.others is not None:
            self.others.engine_ended(error)

    def _advance(self, events: list[Event]) -> None:
        now_s = time.perf_counter()
        deltas: list[tuple[Stream, Delta]] = []
        ended: list[Flight] = []
        others: list[Event] = []
        for event in events:
            flight = self._flights.get(event.request_id)
            if flight is None:  # refused as a whole, or failed, or never ours
                others.append(event)
                continue
            try:
                if isinstance(event, Token):
                    self._on_token(flight, event, now_s, deltas)
                elif isinstance(event, Finished):
                    self._on_finished(flight, event, deltas)
                    if not flight.alive:
                        ended.append(flight)
                else:
                    self._on_failed(flight, event)
            except Exception:  # a bug met by one answer must not end the others
                logger.exception("failed on an event of request_id=%s", event.request_id)
                self._fail(flight, InternalError("Internal error while decoding the answer."))
        self._publish(deltas, ended)
        if others and self.others is not None:
            self.others.advance(others)

    def _publish(self, deltas: list[tuple[Stream, Delta]], ended: list[Flight]) -> None:
        """Fan a step's deltas out to their streams; never waits for a reader."""
        for stream, delta in deltas:
            stream.push(delta)
        for flight in ended:
            flight.stream.end(flight.usage())
            flight.report(self.metrics)

    def _on_token(
        self, flight: Flight, token: Token, now_s: float, deltas: list[tuple[Stream, Delta]]
    ) -> None:
        choice = flight.choices[token.request_id]
        if choice.finish_reason is not None or not flight.has_reader:
            return  # the engine ran ahead of a stop string or of a cancel
        flight.saw_token(now_s)
        deltas.append((flight.stream, choice.add(token)))
        if choice.finish_reason is not None:
            self.engine.cancel(token.request_id)

    def _on_finished(
        self, flight: Flight, event: Finished, deltas: list[tuple[Stream, Delta]]
    ) -> None:
        del self._flights[event.request_id]
        flight.request_ended(event)
        choice = flight.choices[event.request_id]
        if choice.finish_reason is None and flight.has_reader:
            deltas.append((flight.stream, choice.finish(event.reason)))

    def _on_failed(self, flight: Flight, event: Failed) -> None:
        flight.alive.discard(event.request_id)
        self._fail(flight, event.error)

    def _fail(self, flight: Flight, error: ChatError) -> None:
        flight.error = error
        self._forget(flight)
        flight.stream.fail(error)
        flight.report(self.metrics)

    def _forget(self, flight: Flight) -> None:
        """Cancel what still runs; nothing more is heard of it."""
        for request_id in flight.choices:
            self._flights.pop(request_id, None)
        for request_id in flight.alive:
            self.engine.cancel(request_id)
        flight.alive.clear()


def for_choice(
    sampling: SamplingParams, index: int, stop_token_ids: frozenset[int]
) -> SamplingParams:
    """`sampling` with one choice's own seed, drawn here when none was given."""
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    seed = (seed + index * CHOICE_SEED_STEP) & MAX_SEED
    return replace(sampling, seed=seed, stop_token_ids=stop_token_ids)


def _not_ready(state: EngineState) -> EngineDead:
    if state is EngineState.LOADING:
        return EngineDead("The model is still loading. Try again in a few seconds.")
    return EngineDead("The engine has stopped. The server must be restarted.")
