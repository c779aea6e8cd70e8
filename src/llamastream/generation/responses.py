"""Stored responses: generated to their end whoever listens, journalled before they are shown.

A server that was killed goes on with each at the position behind its journal, so that every reader
sees each token exactly once.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llamastream.errors import (
    ChatError,
    StoreUnavailable,
    quoted,
)
from llamastream.generation.chat_service import ChatService, for_choice
from llamastream.generation.choice import TextRules
from llamastream.generation.generations import Generations
from llamastream.generation.items import to_messages
from llamastream.generation.live_response import Details, Json, LiveResponse
from llamastream.generation.response_log import Reader, ResponseLog
from llamastream.sampling import SamplingParams
from llamastream.store.records import (
    IdempotencyKey,
    Interrupted,
    Item,
    NewResponse,
    Response,
    Retention,
    Status,
)
from llamastream.types import ChatRequest, GenerationRequest, Message, Token

if TYPE_CHECKING:
    from llamastream.store.store import Store

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Draft:
    """What a new response is stored with, beside its ChatRequest. `wire` is the transport's own,
    given back with the response."""

    id: str
    wire: Json
    input_items: tuple[Item, ...] = ()
    conversation_id: str | None = None
    previous_response_id: str | None = None
    background: bool = False
    shows_prompt_ids: bool = False
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """What the operator decides about stored responses."""

    grace_s: float = 60.0  # how long one goes on that nobody follows
    may_lapse: bool = False  # when the store fails, streams go on and are not durable meanwhile
    retention: Retention = Retention()


class Responses:
    """Belongs to the event loop of its ChatService, which starts before it and stops before it.

    Every method that takes a `scope` raises NotFound for an id that it does not have.
    """

    def __init__(
        self,
        chat: ChatService,
        open_store: Callable[[], Awaitable["Store"]],
        policy: StorePolicy = StorePolicy(),
    ) -> None:
        self.chat = chat
        self._open_store = open_store
        self._policy = policy
        self._open_parts = AsyncExitStack()
        self._creating: set[asyncio.Task[ResponseLog]] = set()
        self._is_started = False
        self.is_open = False  # between `start` and `stop`

    async def start(self) -> None:
        """Open the store and go on with what the last server left in progress. Idempotent.

        Raises StoreError or StoreUnavailable.
        """
        if self._is_started:
            return
        self._is_started = True
        self.store = await self._open_parts.enter_async_context(await self._open_store())
        self._generations = Generations(
            self.chat,
            self.store,
            grace_s=self._policy.grace_s,
            may_lapse=self._policy.may_lapse,
        )
        self._open_parts.push_async_callback(self._generations.close)
        self.chat.others = self._generations
        recovery = await self.store.recover()
        lives = [(await self._reopened(one), one.restarts > 1) for one in recovery.interrupted]
        self._generations.resume(lives, model_id=self.chat.model_id)
        self.is_open = True
        sweeper = asyncio.create_task(self._sweep_regularly())
        self._open_parts.callback(sweeper.cancel)
        if recovery.interrupted or recovery.failed:
            logger.info(
                "resuming responses=%d failed=%d", len(recovery.interrupted), len(recovery.failed)
            )

    async def stop(self) -> None:
        """Leave what is unfinished to the next start. The engine has ended before."""
        self.is_open = False
        await self._open_parts.aclose()

    @property
    def num_live(self) -> int:
        return len(self._generations)

    async def history(
        self, *, scope: str, conversation_id: str | None, previous_response_id: str | None
    ) -> tuple[Message, ...]:
        """What was said before, oldest first."""
        items: tuple[Item, ...] = ()
        if conversation_id is not None:
            items = await self.store.conversations.history(conversation_id, scope=scope)
        elif previous_response_id is not None:
            items = await self.store.responses.history(previous_response_id, scope=scope)
        return to_messages(items)

    async def create(self, request: ChatRequest, draft: Draft) -> ResponseLog:
        """Admit a request; it is generated to its end unless it is cancelled or deserted.

        For an Idempotency-Key seen before, the response that it began. Raises InvalidRequest,
        ContextLengthExceeded, Overloaded, EngineDead or StoreUnavailable, with nothing stored.
        """
        fitted = await self.chat.prompting.fit(request, self.chat.check_ready())
        rules = TextRules.of(request, fitted.ids, self.chat.tokenizer)
        sampling = for_choice(request.sampling, 0, rules.stop_token_ids)
        details = Details(
            wire=draft.wire,
            rules=rules,
            background=draft.background,
            num_dropped_turns=fitted.num_dropped_turns,
            model_id=self.chat.model_id,
            prompt_token_ids=tuple(fitted.ids) if draft.shows_prompt_ids else None,
        )
        generation = _generation(draft.id, tuple(fitted.ids), sampling, request.scope)
        new = NewResponse(
            id=draft.id,
            request=details.to_json(),
            prompt_ids=generation.prompt_ids,
            sampling=sampling,
            input_items=draft.input_items,
            conversation_id=draft.conversation_id,
            previous_response_id=draft.previous_response_id,
            idempotency=draft.idempotency,
        )
        record = _unconfirmed(new, request.scope)
        live = LiveResponse(record, details, generation, self.chat.tokenizer)
        creating = asyncio.create_task(self._create(new, live))
        self._creating.add(creating)
        creating.add_done_callback(self._on_created)
        # A caller that leaves meanwhile cannot take back what the store may have committed.
        return await asyncio.shield(creating)

    async def open(self, id: str, *, scope: str) -> ResponseLog:
        """A response to read, in progress or finished."""
        live = self._generations.get(id)
        if live is not None and live.log.record.scope == scope:
            return live.log
        record = await self.store.responses.get(id, scope=scope)
        tokens = await self.store.responses.tokens(id, scope=scope)
        details = Details.from_json(record.request)
        log = ResponseLog(record, details.rules, tokens)
        if details.model_id != self.chat.model_id:
            log.read_text_only()
        if not log.is_finished:
            if (live := self._generations.get(id)) is not None:
                return live.log
            log.fail(StoreUnavailable(f"Response {quoted(id)} is generated by another server."))
        return log

    @asynccontextmanager
    async def follow(self, log: ResponseLog, *, start: int = 0) -> AsyncIterator[Reader]:
        """Read a response from the token at position `start` on."""
        log.num_readers += 1
        self.chat.metrics.readers.inc()
        try:
            yield Reader(log, self.chat.tokenizer, start=start)
        finally:
            log.num_readers -= 1
            self.chat.metrics.readers.dec()
            self._generations.on_reader_left(log)

    async def cancel(self, id: str, *, scope: str) -> Response:
        """End a response, if it has not ended, and return it as it then is."""
        log = await self.open(id, scope=scope)
        if (live := self._generations.get(id)) is not None:
            self._generations.cancel(live)
            while not log.is_finished and log.error is None:
                await log.wait()
        if log.error is not None:
            raise log.error
        return log.record

    async def update_wire(self, id: str, changes: Json, *, scope: str) -> None:
        """Change what the transport keeps with a response."""

        def change(request: Json) -> Json:
            return request | {"wire": request["wire"] | changes}

        record = await self.store.responses.update(id, change, scope=scope)
        if (live := self._generations.get(id)) is not None:
            live.log.record = replace(live.log.record, request=record.request)

    async def delete(self, id: str, *, scope: str) -> None:
        """Delete a response for good, and end it if it is in progress."""
        await self.store.responses.delete(id, scope=scope)
        if (live := self._generations.get(id)) is not None:
            self._generations.drop(live)

    async def _create(self, new: NewResponse, live: LiveResponse) -> ResponseLog:
        scope = live.log.record.scope
        # The prompt is computed while the store commits: the first token waits for both.
        try:
            self._generations.begin(live)
        except ChatError as error:
            self.chat.metrics.requests.labels(error.code).inc()
            raise
        try:
            created = await self.store.responses.create(new, scope=scope)
        except BaseException:
            self._generations.drop(live)
            raise
        if created.existing:
            self._generations.drop(live)
            return await self.open(created.response.id, scope=scope)
        if not live.log.is_finished:
            live.log.record = created.response
        return live.log

    def _on_created(self, creating: asyncio.Task[ResponseLog]) -> None:
        self._creating.discard(creating)
        if not creating.cancelled():
            creating.exception()  # its caller's, or nobody's when that has left

    async def _sweep_regularly(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            is_more = True
            try:
                while is_more:
                    is_more = (await self.store.sweep(self._policy.retention)).more
            except ChatError as error:
                logger.warning("sweeping failed: %s", error.message)

    async def _reopened(self, one: Interrupted) -> LiveResponse:
        id, scope = one.response.id, one.response.scope
        details = Details.from_json(one.response.request)
        tokens: list[Token] = []
        if details.model_id == self.chat.model_id:  # else they mean nothing here
            tokens = await self.store.responses.tokens(id, scope=scope)
        generation = _generation(id, one.prompt_ids, one.sampling, scope)
        return LiveResponse(one.response, details, generation, self.chat.tokenizer, tokens)


def _generation(
    id: str, prompt_ids: tuple[int, ...], sampling: SamplingParams, scope: str
) -> GenerationRequest:
    return GenerationRequest(
        request_id=id,
        prompt_ids=prompt_ids,
        sampling=sampling,
        cache_salt=scope.encode(),
        scope=scope,
    )


def _unconfirmed(new: NewResponse, scope: str) -> Response:
    """The record of a response until the store has confirmed it."""
    return Response(
        id=new.id,
        scope=scope,
        status=Status.IN_PROGRESS,
        created_at=time.time(),
        finished_at=None,
        conversation_id=new.conversation_id,
        previous_response_id=new.previous_response_id,
        request=new.request,
        result=None,
        error=None,
    )
