"""Stored answers: generated to their end whoever listens, and found again by their ids.

A server that was killed goes on with each at the position behind its journal, so that every reader
sees each token exactly once. All that the layers above may know of the store is here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamastream.errors import ChatError
from llamastream.generation.answers import Answers, NewAnswer
from llamastream.generation.durable import Durability
from llamastream.generation.elsewhere import Elsewhere
from llamastream.generation.generation import Details, Generation, Json
from llamastream.generation.history import Continued, History, TokenSize, Window
from llamastream.generation.items import to_messages
from llamastream.generation.prefixes import Prefixes
from llamastream.generation.replay import Replay
from llamastream.generation.takeover import Takeover
from llamastream.generation.verifying import Verifying
from llamastream.records import (
    AllowStore,
    Item,
    NewResponse,
    Page,
    PageQuery,
    Response,
    Retention,
    Status,
)
from llamastream.types import ChatRequest

if TYPE_CHECKING:
    from llamastream.store.conversations import Conversations
    from llamastream.store.presets import Presets
    from llamastream.store.store import Store

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """What the operator decides about stored answers."""

    grace_s: float = 60.0  # how long one goes on that nobody follows
    may_continue: bool = False  # when the store fails, streams go on and are not durable meanwhile
    retention: Retention = Retention()


class StoredAnswers:
    """Belongs to the event loop of its Answers, which start before it and stop before it.

    Every method that takes a `scope` raises NotFound for an id that it does not have.
    """

    def __init__(
        self,
        answers: Answers,
        open_store: Callable[[], Awaitable["Store"]],
        policy: StorePolicy = StorePolicy(),
    ) -> None:
        self.answers = answers
        self._token_size = TokenSize(answers.tokenizer)
        self._replay = Replay(answers.tokenizer, answers.model_id, answers.grammars)
        self._open_store = open_store
        self._policy = policy
        self._open_parts = AsyncExitStack()
        self._creating: set[asyncio.Task[Generation]] = set()
        self._is_started = False
        self.is_open = False  # between `start` and `stop`

    async def start(self) -> None:
        """Open the store and go on with what the last server left in progress. Idempotent.

        Raises StoreError or StoreUnavailable.
        """
        if self._is_started:
            return
        self._is_started = True
        self._store = await self._open_parts.enter_async_context(await self._open_store())
        dispatcher, policy = self.answers.dispatcher, self._policy
        self._durability = Durability(
            dispatcher, self._store, grace_s=policy.grace_s, may_continue=policy.may_continue
        )
        self._open_parts.push_async_callback(self._durability.close)
        self._elsewhere = Elsewhere(self._store, self._replay, dispatcher, grace_s=policy.grace_s)
        self._open_parts.push_async_callback(self._elsewhere.close)
        self._prefixes = Prefixes(self.answers.disk, self._store)
        parts = (self._store, self._durability, self._elsewhere, self._replay, self._prefixes)
        self._takeover = Takeover(*parts, dispatcher, model_id=self.answers.model_id)
        self._open_parts.push_async_callback(self._takeover.close)
        self.verifying = Verifying(self.answers, self._store)
        await self._takeover.start()
        self.is_open = True
        sweeping = _sweep_regularly(self._store, self._policy.retention, self._prefixes)
        sweeper = asyncio.create_task(sweeping)
        self._open_parts.callback(sweeper.cancel)

    async def stop(self) -> None:
        """Leave what is unfinished to the next start. The engine has ended before."""
        self.is_open = False
        await self._open_parts.aclose()

    @property
    def is_working(self) -> bool:
        """Whether the database took what it was given last."""
        return self._store.is_working

    @property
    def is_lost(self) -> bool:
        """Whether the database was taken away under the server: it must be started again."""
        return self.is_open and self._store.is_lost

    @property
    def is_fenced(self) -> bool:
        """Whether others took this server for dead, and it is not back under a new name yet."""
        return self.is_open and self._takeover.is_fenced

    async def hand_over(self) -> None:
        """When the server stops: other servers, if any, go on with what is in progress at once, and
        its readers here with that."""
        if self.is_open:
            await self._takeover.hand_over()

    @property
    def num_live(self) -> int:
        """Generated or followed here."""
        return len(self._durability) + self._elsewhere.num_followed

    @property
    def conversations(self) -> "Conversations":
        """Those of the store, to be read and written; what deletes is here."""
        return self._store.conversations

    @property
    def presets(self) -> "Presets":
        """Those of the store: nothing is generated from them here."""
        return self._store.presets

    def allow(self, scope: str) -> AllowStore:
        """What lets a key of this scope store more, or raises RateLimited."""
        return self.answers.quotas.allow_store(scope)

    async def history(self, continued: Continued, *, scope: str) -> History:
        """What was said before, oldest first, and of that no more than can fit the context.

        Raises ContextLengthExceeded where that is known by the sizes of what is stored.
        """
        limits = self.answers.dispatcher.check_ready()
        window = Window(continued, self._token_size, max_model_len=limits.max_model_len)
        items: tuple[Item, ...] = ()
        if continued.conversation_id is not None:
            items = await self._store.conversations.history(
                continued.conversation_id,
                scope=scope,
                choose=window.choose,
                after=continued.after,
            )
        elif continued.previous_response_id is not None:
            items = await self._store.responses.history(
                continued.previous_response_id, scope=scope, choose=window.choose
            )
        return History(to_messages(items), window.num_unread_turns)

    async def create(self, request: ChatRequest, new: NewAnswer) -> Generation:
        """Admit a request; it is generated to its end unless it is cancelled or deserted.

        For an Idempotency-Key seen before, the answer that it began. Raises InvalidRequest,
        ContextLengthExceeded, Overloaded, RateLimited, EngineDead or StoreUnavailable, with nothing
        stored.
        """
        if new.idempotency is None:  # what it began before is found in a full house as well
            self.answers.check_room(request.scope)
        fitted = await self.answers.fit(request)
        generation = await self.answers.make(request, new, [fitted])
        await self._prefixes.own(generation)
        creating = asyncio.create_task(self._create(generation, new, request.scope))
        self._creating.add(creating)
        creating.add_done_callback(self._creating.discard)
        creating.add_done_callback(_heard)
        # A caller that leaves meanwhile cannot take back what the store may have committed.
        return await asyncio.shield(creating)

    async def find(self, id: str, *, scope: str) -> Generation:
        """An answer to read, in progress or ended."""
        live = self._durability.get(id) or self._elsewhere.get(id)
        if live is not None and live.scope == scope:
            return live
        record = await self._store.responses.get(id, scope=scope)
        tokens = await self._store.responses.tokens(id, scope=scope)
        if record.status is Status.IN_PROGRESS and (live := self._durability.get(id)) is not None:
            return live
        return self._elsewhere.share(await self._replay.of_record(record, tokens, self._elsewhere))

    async def cancel(self, id: str, *, scope: str) -> Generation:
        """End an answer, if it has not ended, and return it when it has."""
        generation = await self.find(id, scope=scope)
        if self._durability.get(id) is generation:
            self._durability.cancel(generation)
            await generation.over()
        elif generation.end is None:
            await self._store.responses.cancel(id, scope=scope)
            await generation.over()
        if generation.error is not None:
            raise generation.error
        return generation

    async def update(self, id: str, changes: Json, *, scope: str) -> None:
        """Change what the format keeps with an answer."""

        def change(request: Json) -> Json:
            return request | {"wire": request["wire"] | changes}

        record = await self._store.responses.update(id, change, scope=scope)
        if (live := self._durability.get(id)) is not None:
            live.details = Details.from_json(record.request)

    async def delete(self, id: str, *, scope: str) -> None:
        """Delete an answer for good, and end it if it is in progress."""
        await self._store.responses.delete(id, scope=scope)
        if (live := self._durability.get(id)) is not None:
            self._durability.remove(live)
        await self._prefixes.forget(id)

    async def delete_conversation(self, id: str, *, scope: str) -> None:
        """Its answers stay, and those in progress go on."""
        await self._store.conversations.delete(id, scope=scope)
        await self._prefixes.forget(id)

    async def delete_item(self, id: str, item_id: str, *, scope: str) -> None:
        """Take an item out of a conversation."""
        await self._store.conversations.item(id, item_id, scope=scope)
        await self._prefixes.forget(id)  # before, since the next start could not tell
        await self._store.conversations.delete_item(id, item_id, scope=scope)
        await self._prefixes.forget(id)

    async def list(
        self, *, scope: str, prefix: str, query: PageQuery, matches: Callable[[Response], bool]
    ) -> Page[Response]:
        """Records of answers that ended well, whose ids begin with `prefix`, by age."""
        return await self._store.responses.list(
            scope=scope, prefix=prefix, query=query, matches=matches
        )

    async def input_items(self, id: str, *, scope: str, query: PageQuery) -> Page[Item]:
        """What was said to the model, and not what it said."""
        return await self._store.responses.input_items(id, scope=scope, query=query)

    async def _create(self, generation: Generation, new: NewAnswer, scope: str) -> Generation:
        # The prompt is computed while the store commits: the first token waits for both.
        try:
            self._durability.begin(generation)
        except ChatError as error:
            self.answers.count_refusal(error)
            raise
        request = generation.choices[0].request
        try:
            created = await self._store.responses.create(
                NewResponse(
                    id=generation.id,
                    request=generation.details.to_json(),
                    prompt_ids=request.prompt_ids,
                    sampling=request.sampling,
                    input_items=new.input_items,
                    conversation_id=new.conversation_id,
                    previous_response_id=new.previous_response_id,
                    idempotency=new.idempotency,
                ),
                scope=scope,
                allow=self.allow(scope),
            )
        except BaseException:
            self._elsewhere.drop(generation.id)
            self._durability.remove(generation)
            raise
        if created.existing:
            self._durability.remove(generation)
            return await self.find(created.response.id, scope=scope)
        generation.created_at = created.response.created_at
        if request.owner is not None:
            request.owner.confirm()
        return generation


def _heard(creating: "asyncio.Task[Generation]") -> None:
    """Its failure is its caller's, or nobody's when that has left."""
    if not creating.cancelled():
        creating.exception()


async def _sweep_regularly(store: "Store", retention: Retention, prefixes: Prefixes) -> None:
    is_deleted = True  # perhaps, as the last server ended
    while True:
        try:
            if is_deleted or store.membership.has_peers:
                await prefixes.tidy()
                is_deleted = False
            await asyncio.sleep(SWEEP_INTERVAL_S)
            is_more = True
            while is_more:
                swept = await store.sweep(retention)
                is_deleted |= bool(swept.num_responses or swept.num_conversations)
                is_more = swept.more
            prefixes.expire()
        except ChatError as error:
            logger.warning("sweeping failed: %s", error.message)
            await asyncio.sleep(SWEEP_INTERVAL_S)
