"""From a PromptDocument to the documents of its answer. Both wires begin here.

An answer that is not stored ends when its reader leaves. One that is goes on without, and document
n of it is the same for every reader, now and after a restart.
"""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from llamastream.api.http.errors import check_id
from llamastream.api.http.idempotency import refuse_key
from llamastream.errors import EngineDead
from llamastream.generation.chat_service import ChatService
from llamastream.generation.response_log import ResponseLog
from llamastream.generation.responses import Draft, Responses
from llamastream.jina.answers import PREFIX, Answer, Documents, StoredAnswer
from llamastream.jina.documents import Ask, check_not_kept

Authorize = Callable[[str | None], str]
"""Value of an `Authorization` header (None: none was sent) -> scope. Raises Unauthorized."""


class StreamDesk:
    def __init__(
        self,
        service: ChatService,
        authorize: Authorize,
        ready: Callable[[], bool],
        responses: Responses | None = None,
    ) -> None:
        """`ready` answers health checks and `is_flow_ready`, unless the database was taken away.
        Without `responses` nothing can be stored."""
        self._ready = ready
        self.is_storing = responses is not None
        self._service = service
        self._authorize = authorize
        self._responses = responses

    def ready(self) -> bool:
        return self._ready() and (self._responses is None or not self._responses.is_lost)

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[Documents]:
        """The answer that is asked for, from its start or from where a reader left it."""
        scope = self._authorize(ask.authorization())
        keeping = ask.keeping()
        if self._responses is None:
            check_not_kept(keeping)
        if self._responses is None or not (keeping.store or keeping.stream_id):
            refuse_key(ask.idempotency_key)
            stream = await self._service.open(ask.prompt(scope))
            try:
                yield Answer(stream)
            finally:
                await stream.aclose()
            return
        responses, after = _opened(self._responses), keeping.starting_after
        if keeping.stream_id is None:
            log = await _begin(responses, ask, scope)
        else:
            log = await responses.open(check_id(keeping.stream_id, PREFIX), scope=scope)
        async with responses.follow(log, start=after + 1) as reader:
            yield StoredAnswer(reader, after=after)

    async def delete(self, id: str, header: str | None) -> None:
        """Delete a stored answer for good, and end it if it is in progress."""
        scope = self._authorize(header)
        assert self._responses is not None  # or there is no route
        await _opened(self._responses).delete(check_id(id, PREFIX), scope=scope)


def _opened(responses: Responses) -> Responses:
    """gRPC listens before the store is open, and until after it is closed."""
    if not responses.is_open:
        raise EngineDead("The store is not open. Try again in a few seconds.")
    return responses


async def _begin(responses: Responses, ask: Ask, scope: str) -> ResponseLog:
    prompt = ask.prompt(scope)
    wire = {"max_tokens": prompt.sampling.max_tokens}
    draft = Draft(id=PREFIX + uuid.uuid4().hex, wire=wire, idempotency=ask.key())
    return await responses.create(prompt, draft)
