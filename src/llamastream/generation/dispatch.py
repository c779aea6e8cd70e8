"""Between engine and answers: requests go down, and each step's events into the answers' logs.

The only one who hears the engine. The invariant: an answer that was submitted ends in `ended` or
`failed` of its keeper, once, and its engine requests never outlive it.
"""

import logging
import time
from collections.abc import Callable

from llamastream.errors import ChatError, EngineDead, InternalError
from llamastream.generation.choice import Choice
from llamastream.generation.engine import Engine
from llamastream.generation.generation import Generation, Keeper, State
from llamastream.generation.quotas import Quotas
from llamastream.metrics import Metrics
from llamastream.types import EngineState, EngineStatus, Event, Finished, PromptTokens, Token

logger = logging.getLogger(__name__)


RUNNING = State.RUNNING  # looked up once per token
Drawn = dict[Keeper, dict[Generation, None]]


def _hand_over(drawn: Drawn) -> None:
    """Tell the keepers what a step drew, and begin anew."""
    by_keeper = list(drawn.items())
    drawn.clear()
    for keeper, generations in by_keeper:
        keeper.drawn(generations)


class Dispatcher:
    """Belongs to one event loop. Starts and stops the engine."""

    def __init__(self, engine: Engine, quotas: Quotas) -> None:
        self.engine = quotas.over(engine)
        self.metrics = Metrics(engine.status, quotas.by_name)
        self._quotas = quotas
        self._running: dict[str, tuple[Generation, Choice]] = {}  # by engine request id
        self._when_over: list[Callable[[ChatError], None]] = []
        self._is_started = False
        self._is_over = False  # no more steps will come
        self.is_draining = False

    def start(self) -> None:
        """Start the engine, which then loads. Idempotent."""
        if not self._is_started:
            self._is_started = True
            self.engine.start(self._on_events, self._on_end)

    async def stop(self) -> None:
        """Stop the engine and fail what is open."""
        if self._is_started:
            await self.engine.stop()

    def when_over(self, callback: Callable[[ChatError], None]) -> None:
        """Have it called once, when no more steps will come, with the reason."""
        self._when_over.append(callback)

    def check_ready(self) -> EngineStatus:
        """The engine's limits. Raises EngineDead unless a request may be opened."""
        status = self.engine.status()
        if self.is_draining:
            raise EngineDead("The server is stopping. Try again in a few seconds.")
        if status.state is not EngineState.READY or self._is_over:
            raise _not_ready(status.state)
        return status

    def __len__(self) -> int:
        """Engine requests whose end has not been seen yet."""
        return len(self._running)

    def report(self, generation: Generation) -> None:
        """Log and count an answer that has ended."""
        generation.report(self._quotas.name_of(generation.scope)).write(self.metrics)

    def submit(self, generation: Generation) -> None:
        """Give the engine all choices of an answer, or none. Raises what it refuses them with."""
        try:
            for choice in generation.choices:
                self.engine.submit(choice.request)
                self._running[choice.request.request_id] = generation, choice
        except Exception:
            self.forget(generation)
            raise
        generation.state = State.RUNNING

    def cancel(self, generation: Generation) -> None:
        """Ask for the end of an answer that the engine has, which its keeper will hear of."""
        generation.state = State.STOPPING
        for choice in generation.choices:
            if choice.request.request_id in self._running:
                self.engine.cancel(choice.request.request_id)

    def forget(self, generation: Generation) -> None:
        """End what still runs of an answer; nothing more is heard of it."""
        for choice in generation.choices:
            if self._running.pop(choice.request.request_id, None) is not None:
                self.engine.cancel(choice.request.request_id)

    def _on_events(self, events: list[Event]) -> None:
        try:
            self._dispatch(events)
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
        for generation in {generation for generation, _ in self._running.values()}:
            self._fail(generation, error)
        for callback in self._when_over:
            callback(error)

    def _dispatch(self, events: list[Event]) -> None:
        now_s = time.perf_counter()
        drawn: Drawn = {}
        over: list[Generation] = []
        running, num_tokens = self._running, 0
        for event in events:
            found = running.get(event.request_id)
            if found is None:
                continue  # forgotten, or of an answer that was refused as a whole
            generation, choice = found
            try:
                if isinstance(event, Token):
                    num_tokens += 1
                    # The engine may run ahead of a stop string or of a cancel.
                    if choice.finish_reason is None and generation.state is RUNNING:
                        generation.take(choice, event, now_s)
                        keeper = generation.keeper
                        if keeper in drawn:
                            drawn[keeper][generation] = None
                        else:
                            drawn[keeper] = {generation: None}
                        if choice.finish_reason is not None:
                            self.engine.cancel(event.request_id)
                elif isinstance(event, PromptTokens):
                    choice.add_prompt(event.tokens)
                elif isinstance(event, Finished):
                    del running[event.request_id]
                    generation.finish_choice(choice, event)
                    if not any(c.request.request_id in running for c in generation.choices):
                        over.append(generation)
                else:
                    del running[event.request_id]
                    _hand_over(drawn)  # what was drawn before comes before
                    self._fail(generation, event.error)
            except Exception:  # a bug met by one answer must not end the others
                logger.exception("failed on an event of request_id=%s", event.request_id)
                self._fail(generation, InternalError("Internal error while decoding the answer."))
        self.metrics.num_output_tokens += num_tokens
        _hand_over(drawn)
        for generation in over:
            if generation.state in (State.RUNNING, State.STOPPING):
                generation.state = State.ENDING
                generation.keeper.ended(generation)

    def _fail(self, generation: Generation, error: ChatError) -> None:
        self.forget(generation)
        generation.keeper.failed(generation, error)


def _not_ready(state: EngineState) -> EngineDead:
    if state is EngineState.LOADING:
        return EngineDead("The model is still loading. Try again in a few seconds.")
    return EngineDead("The engine has stopped. The server must be restarted.")
