"""Engines on other machines as one engine: token ids in, token events out, over HTTP.

The invariant is AsyncEngine's: every request that `submit` accepted ends in exactly one Finished or
Failed. What a replica had in hand when it died another goes on with, behind the tokens that came.

Whose turn it is when all seats are taken is decided here, by key; what is computed with what is
decided there. Knows no wire (wire.py) and no connection (replica.py).
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from llamastream.config import EngineConfig
from llamastream.engine.admission import Admission
from llamastream.engine.fairness import Shares
from llamastream.engine.remote import wire
from llamastream.engine.remote.replica import Unavailable
from llamastream.engine.remote.replicas import Replicas
from llamastream.engine.sequence import Sequence
from llamastream.errors import ChatError, EngineDead, InternalError
from llamastream.types import (
    EngineState,
    EngineStatus,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Token,
)

logger = logging.getLogger(__name__)

MAX_LOST = 3  # replicas that may fail a request in a row without a token of it: it may be the cause


class RemoteEngine:
    """All methods belong to the event loop that called `start`."""

    def __init__(self, replicas: Replicas, config: EngineConfig, *, vocab_size: int) -> None:
        """`config.max_num_seqs` is how many requests are out at the same time, at all together."""
        self._replicas = replicas
        self._config = config
        self._vocab_size = vocab_size
        self._admission: Admission | None = None  # once a replica told its limit
        self._shares = Shares()
        self._sequences: dict[str, Sequence] = {}  # all that have not ended
        self._drawing: dict[str, asyncio.Task[None]] = {}  # of these, what has a seat
        self._events: list[Event] = []  # since the last delivery
        self._is_stopped = False
        self._on_events: Callable[[list[Event]], None]
        self._on_end: Callable[[], None]

    def start(self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]) -> None:
        self._on_events, self._on_end = on_events, on_end
        self._replicas.start(self._limit)

    async def ready(self) -> None:
        """Return when one of them takes requests."""
        await self._replicas.any_up()
        if self._is_stopped:
            raise _stopped()

    async def stop(self) -> None:
        """Fail what is unfinished and close all connections."""
        if self._is_stopped:
            return
        self._is_stopped = True
        tasks = list(self._drawing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for seq in list(self._sequences.values()):
            self._end(seq, Failed(seq.request_id, _stopped()))
        self._deliver()
        await self._replicas.stop()
        self._on_end()

    def check_room(self, scope: str, count: int) -> None:
        if self._admission is not None:
            self._admission.check_room(scope, count)

    def submit(self, request: GenerationRequest) -> None:
        """Raises InvalidRequest, ContextLengthExceeded, Overloaded or EngineDead."""
        if self._is_stopped:
            raise _stopped()
        if self._admission is None or not self._replicas.is_any_up:
            raise EngineDead("No engine of --engine-url can be reached. Try again later.")
        wire.check(request)
        seq = self._admission.admit(request)
        self._sequences[seq.request_id] = seq
        self._shares.add(seq)
        reason = seq.finish_reason()  # what is resumed may have been complete
        if reason is not None:
            self._end(seq, _finished(seq, reason))
        self._fill()

    def cancel(self, request_id: str) -> None:
        seq = self._sequences.get(request_id)
        if seq is not None:
            self._end(seq, _finished(seq, FinishReason.CANCELLED))

    def status(self) -> EngineStatus:
        state = EngineState.READY if self._replicas.is_any_up else EngineState.LOADING
        num_running = len(self._drawing)
        return EngineStatus(
            state=EngineState.DEAD if self._is_stopped else state,
            max_model_len=self._admission.max_model_len if self._admission else 0,
            vocab_size=self._vocab_size,
            num_running=num_running,
            num_waiting=len(self._sequences) - num_running,
            num_blocks=0,
            num_free_blocks=0,
        )

    def _limit(self, max_model_len: int) -> None:
        """Set what a sequence may hold."""
        longest = min(max_model_len, self._config.max_model_len or max_model_len)
        if self._admission is None:
            self._admission = Admission(
                self._config, max_model_len=longest, vocab_size=self._vocab_size
            )
        self._admission.max_model_len = longest

    def _fill(self) -> None:
        """Give free seats to the keys that were given least."""
        while self._shares.num_waiting and len(self._drawing) < self._config.max_num_seqs:
            waiting = [share for share in self._shares if share.waiting]
            seq = min(waiting, key=lambda share: share.num_tokens).waiting[0]
            self._shares.start(seq)
            self._shares.count_prompt(seq, seq.num_tokens)
            self._drawing[seq.request_id] = asyncio.create_task(self._run(seq))

    async def _run(self, seq: Sequence) -> None:
        try:
            reason = await self._draw(seq)
        except ChatError as error:
            self._end(seq, Failed(seq.request_id, error))
        except Exception:
            logger.exception("failed on request_id=%s", seq.request_id)
            self._end(seq, Failed(seq.request_id, InternalError("Internal error. Try again.")))
        else:
            self._end(seq, _finished(seq, reason))

    async def _draw(self, seq: Sequence) -> FinishReason:
        """All tokens of a sequence, from as many replicas as it takes."""
        num_lost = 0
        while True:
            replica = await self._replicas.choose()
            num_known = seq.num_tokens
            try:
                if not wire.may_go_on(seq):
                    raise InternalError(
                        "The engine that drew the answer is gone, and presence_penalty and "
                        "frequency_penalty keep another from going on with it. Ask again."
                    )
                async with aclosing(replica.draw(seq)) as steps:
                    async for drawn in steps:
                        if (reason := self._take(seq, drawn)) is not None:
                            return reason
            except Unavailable as error:
                num_lost = num_lost + 1 if seq.num_tokens == num_known else 1
                logger.warning(
                    "engine %s lost request_id=%s behind %d tokens: %s",
                    *(replica.url, seq.request_id, seq.num_output_tokens, error),
                )
                if num_lost >= MAX_LOST:
                    raise InternalError(
                        f"{num_lost} engines in a row failed to go on with the answer. Ask again."
                    ) from error
                if replica.is_up:
                    await self._replicas.check(replica)

    def _take(self, seq: Sequence, drawn: list[wire.Drawn]) -> FinishReason | None:
        """Report what was drawn. Our own rule says what ends a sequence, not the replica's word."""
        for token_id, logprob, top in drawn:
            if seq.sampling.max_tokens != 0:
                shown = top[: seq.sampling.logprobs]
                self._emit(Token(seq.request_id, seq.num_output_tokens, token_id, logprob, shown))
            seq.append(token_id)
            self._shares.count_decodes((seq,), 1)
            if (reason := seq.finish_reason()) is not None:
                return reason
        return None

    def _end(self, seq: Sequence, event: Finished | Failed) -> None:
        """The last event of a sequence, once; its connection is closed, which ends it there."""
        if self._sequences.pop(seq.request_id, None) is None:
            return
        task = self._drawing.pop(seq.request_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._shares.remove(seq, is_running=task is not None)
        if self._admission is not None:
            self._admission.release(seq.request_id)
        self._emit(event)
        if not self._is_stopped:
            self._fill()

    def _emit(self, event: Event) -> None:
        """What came at the same time is delivered, and stored, together."""
        if not self._events:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._events.append(event)

    def _deliver(self) -> None:
        events, self._events = self._events, []
        if events:
            self._on_events(events)


def _stopped() -> EngineDead:
    return EngineDead("The engine stopped before the answer was complete.")


def _finished(seq: Sequence, reason: FinishReason) -> Finished:
    num_output_tokens = 0 if seq.sampling.max_tokens == 0 else seq.num_output_tokens
    return Finished(seq.request_id, reason, seq.num_prompt_tokens, 0, num_output_tokens)
