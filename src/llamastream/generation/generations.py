"""Stored responses while they are generated: between engine, journal and readers.

One step of the engine is one transaction for all of them; its tokens reach readers once it is
committed. The invariant: what a reader saw is in the journal, so it is drawn by nobody again.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llamastream.errors import ChatError, EngineDead, InternalError, NotFound, StoreUnavailable
from llamastream.generation.chat_service import ChatService
from llamastream.generation.items import output_item
from llamastream.generation.journalling import Journalling
from llamastream.generation.live_response import End, LiveResponse
from llamastream.generation.response_log import ResponseLog
from llamastream.generation.resuming import STORE_RETRY_S, Resuming
from llamastream.store.records import Outcome, Response, Status
from llamastream.types import Event, Finished, FinishReason, Token, Usage

if TYPE_CHECKING:
    from llamastream.store.store import Store

logger = logging.getLogger(__name__)

STATUSES = {
    FinishReason.STOP: Status.COMPLETED,
    FinishReason.LENGTH: Status.INCOMPLETE,
    FinishReason.CANCELLED: Status.CANCELLED,
}


OTHER_MODEL = "The server was started again with another model, which cannot go on with this."


class Generations:
    """Every response in progress is in here exactly once, from its submission to its end."""

    def __init__(
        self, chat: ChatService, store: "Store", *, grace_s: float, may_lapse: bool
    ) -> None:
        self._chat = chat
        self._store = store
        self._grace_s = grace_s
        self._may_lapse = may_lapse
        self._live: dict[str, LiveResponse] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._journal = Journalling(store, may_lapse=may_lapse, on_refused=self._on_refused)
        self._resuming = Resuming(self._submit, self._end)

    def __len__(self) -> int:
        return len(self._live)

    def get(self, id: str) -> LiveResponse | None:
        return self._live.get(id)

    def begin(self, live: LiveResponse) -> None:
        """Hand a new one to the engine. Raises what that refuses it with, and then it is not in."""
        self._submit(live)
        self._live[live.id] = live

    def resume(self, lives: Iterable[tuple[LiveResponse, bool]], *, model_id: str) -> None:
        """Go on, once the engine is ready, with what an earlier server left.

        With each, whether it may be what ended that server. What another model began is failed.
        """
        for live, is_suspect in lives:
            self._live[live.id] = live
            if live.details.model_id == model_id:
                self._resuming.add(live, is_suspect=is_suspect)
            else:
                self._end(live, End(None, error=OTHER_MODEL))
        self._spawn(self._resuming.run(self._chat.engine))

    def on_reader_left(self, log: ResponseLog) -> None:
        live = self._live.get(log.record.id)
        if live is not None and live.log is log:
            live.watch_readers(self._grace_s, self._on_deserted)

    def cancel(self, live: LiveResponse) -> None:
        """Ask for its end, which its log will show."""
        live.is_cancelled = True
        if live.is_submitted:
            self._chat.engine.cancel(live.id)
        elif not live.has_ended:  # it waits for the model, or for its turn
            self._end(live, End(live.finish_reason or FinishReason.CANCELLED))

    def drop(self, live: LiveResponse) -> None:
        """Forget one that is not, or no longer, in the store. What is still on its way is dropped
        with it. Idempotent."""
        live.stop_watching()
        live.is_ending = live.is_dropped = True
        if self._live.get(live.id) is live:
            del self._live[live.id]
        self._chat.engine.cancel(live.id)
        live.log.fail(NotFound(f"Response {live.id!r} was deleted.", param="response_id"))

    async def close(self) -> None:
        """Leave what is unfinished to the next start. The engine has ended before."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for live in self._live.values():
            live.stop_watching()

    # What the engine says, by ChatService.

    def advance(self, events: list[Event]) -> None:
        """Journal the tokens of a step, and end what has ended."""
        drawn: dict[str, LiveResponse] = {}
        ended: list[tuple[LiveResponse, End]] = []
        for event in events:
            live = self._live.get(event.request_id)
            if live is None or live.is_ending:
                continue
            if live.is_leaving:
                live.is_leaving = isinstance(event, Token)
                live.log.publish(0)
            elif isinstance(event, Token):
                self._on_token(live, event, drawn)
            elif isinstance(event, Finished):
                reason = FinishReason.CANCELLED if live.is_cancelled else event.reason
                reason = live.finish_reason or reason
                ended.append((live, End(reason, event.num_cached_tokens, event.queue_s)))
            elif isinstance(event.error, EngineDead):
                live.log.fail(event.error)
            else:
                ended.append((live, End(None, error=event.error.message)))
        self._journal.write(list(drawn.values()))
        for live, end in ended:
            self._end(live, end)

    def engine_ended(self, error: ChatError) -> None:
        """What is in progress stays so, for the next start."""
        for live in self._live.values():
            if not live.is_ending:
                live.log.fail(error)

    def _on_token(self, live: LiveResponse, token: Token, drawn: dict[str, LiveResponse]) -> None:
        if live.is_stopped:
            return  # the engine ran ahead of a stop string or of a cancel
        drawn[live.id] = live
        live.take(token)
        if live.is_stopped:
            self._chat.engine.cancel(live.id)

    # The life of one response.

    def _submit(self, live: LiveResponse) -> None:
        self._chat.engine.submit(live.generation())
        live.is_submitted = True
        live.watch_readers(self._grace_s, self._on_deserted)

    def _on_deserted(self, live: LiveResponse) -> None:
        if live.log.num_readers:
            return
        logger.info("nobody follows request_id=%s: cancelled", live.id)
        self.cancel(live)

    def _on_refused(self, live: LiveResponse, error: ChatError) -> None:
        """The store did not take a step of it. Only what may pass by itself is tried again."""
        if isinstance(error, NotFound):
            self.drop(live)
        elif isinstance(error, StoreUnavailable):
            self._park(live, error)
        elif not live.is_ending:
            logger.error("refused request_id=%s: %s", live.id, error.message)
            self._chat.engine.cancel(live.id)
            self._end(live, End(None, error=error.message))

    def _park(self, live: LiveResponse, error: ChatError) -> None:
        """The store failed: readers are told, and it goes on when the store is back."""
        logger.warning("parked request_id=%s: %s", live.id, error.message)
        self._chat.engine.cancel(live.id)
        successor = live.parked()
        successor.is_leaving = not live.is_ending
        successor.log.error = error
        self._live[live.id] = successor
        live.log.fail(error)
        self._spawn(self._resuming.resume_parked(successor))

    def _end(self, live: LiveResponse, end: End) -> None:
        live.is_ending = True
        self._spawn(self._record(live, end))

    async def _record(self, live: LiveResponse, end: End) -> None:
        """Store how a response ended, and then tell its readers.

        While durability may lapse they are told before, and it stays here until it is stored.
        """
        usage = live.usage(end.num_cached_tokens)
        outcome = _outcome(live, end, usage)
        while True:
            await self._journal.settle(live)
            if live.is_parked or live.is_dropped or live.log.error is not None:
                return
            try:
                if not live.is_lapsed:
                    record = await self._store.responses.finish(live.id, outcome)
                    break
            except NotFound:
                self.drop(live)  # deleted meanwhile
                return
            except StoreUnavailable as error:
                if not self._may_lapse:
                    self._park(live, error)
                    return
            if not live.log.is_finished:
                live.log.finish(_ended(live.log.record, outcome))
            await asyncio.sleep(STORE_RETRY_S)
        live.stop_watching()
        self._live.pop(live.id, None)
        live.log.finish(record)
        outcome_name = end.reason or InternalError.code
        live.report(usage, end.queue_s, outcome_name).write(self._chat.metrics)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a stored response's task failed", exc_info=error)


def _ended(record: Response, outcome: Outcome) -> Response:
    """As the store will have it."""
    return replace(
        record,
        status=outcome.status,
        finished_at=time.time(),
        result=outcome.result,
        error=outcome.error,
    )


def _outcome(live: LiveResponse, end: End, usage: Usage) -> Outcome:
    if end.reason is None:
        return Outcome(Status.FAILED, {"usage": list(usage), "text": ""}, (), end.error)
    text = live.text(end.reason)
    result = {"usage": list(usage), "text": text}
    status = STATUSES[end.reason]
    is_whole = status is Status.COMPLETED
    item = output_item(live.id, text, "completed" if is_whole else "incomplete")
    return Outcome(status, result, (item,))
