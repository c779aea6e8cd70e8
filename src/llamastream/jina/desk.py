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
from llamastream.jina.keys import Authorize, Keys


class StreamDesk:
    def __init__(
        self,
        service: ChatService,
        authorize: Authorize,
        ready: Callable[[], bool],
        responses: Responses | None = None,
    ) -> None:
        """`ready` answers health checks and `is_flow_ready`. Without `responses` nothing can be
        stored."""
        self.keys = Keys(authorize)
        self.ready = ready
        self.is_storing = responses is not None
        self._service = service
        self._responses = responses

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[Documents]:
        """The answer that is asked for, from its start or from where a reader left it."""
        keeping = ask.keeping()
        if self._responses is None:
            check_not_kept(keeping)
        if self._responses is None or not (keeping.store or keeping.stream_id):
            refuse_key(ask.idempotency_key)
            stream = await self._service.open(ask.prompt())
            try:
                yield Answer(stream)
            finally:
                await stream.aclose()
            return
        responses, after = _opened(self._responses), keeping.starting_after
        if keeping.stream_id is None:
            log = await _begin(responses, ask)
        else:
            log = await responses.open(check_id(keeping.stream_id, PREFIX), scope=ask.scope)
        async with responses.follow(log, start=after + 1) as reader:
            yield StoredAnswer(reader, after=after)

    async def delete(self, id: str, header: str | None) -> None:
        """Delete a stored answer for good, and end it if it is in progress."""
        scope = self.keys.require(header)
        assert self._responses is not None  # or there is no route
        await _opened(self._responses).delete(check_id(id, PREFIX), scope=scope)


def _opened(responses: Responses) -> Responses:
    """gRPC listens before the store is open, and until after it is closed."""
    if not responses.is_open:
        raise EngineDead("The store is not open. Try again in a few seconds.")
    return responses


async def _begin(responses: Responses, ask: Ask) -> ResponseLog:
    prompt = ask.prompt()
    wire = {"max_tokens": prompt.sampling.max_tokens}
    draft = Draft(id=PREFIX + uuid.uuid4().hex, wire=wire, idempotency=ask.key())
    return await responses.create(prompt, draft)
