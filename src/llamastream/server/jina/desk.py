"""From a PromptDocument to the documents of its answer. Both wires begin here.

An answer that is not stored ends when its reader leaves. One that is goes on without, and document
n of it is the same for every reader, now and after a restart.
"""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from llamastream.errors import EngineDead, InternalError
from llamastream.messages import Delta, FinishReason, Usage
from llamastream.server.errors import check_id
from llamastream.server.idempotency import make_key, refuse_key
from llamastream.server.jina.documents import (
    ENDPOINT,
    Answer,
    OutputFields,
    authorization,
    check_not_kept,
    output_document,
    parse_keeping,
    parse_prompt,
    prompt_json,
)
from llamastream.service.chat_service import ChatService
from llamastream.service.response_log import FINISH_REASONS, Reader, ResponseLog
from llamastream.service.responses import Draft, Responses

PREFIX = "stream_"

Authorize = Callable[[str | None], str]
"""Value of an `Authorization` header (None: none was sent) -> scope. Raises Unauthorized."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A PromptDocument's fields and what came beside it. `text`: see parse_prompt."""

    fields: Mapping[str, object]
    authorization: str | None
    idempotency_key: str | None
    label: str
    text: bool = False


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
        self.ready = ready
        self.is_storing = responses is not None
        self._service = service
        self._authorize = authorize
        self._responses = responses

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator["Documents"]:
        """The answer that is asked for, from its start or from where a reader left it."""
        scope = self._authorize(authorization(ask.authorization, ask.fields))
        keeping = parse_keeping(ask.fields, text=ask.text)
        if self._responses is None:
            check_not_kept(keeping)
        if self._responses is None or not (keeping.store or keeping.stream_id):
            refuse_key(ask.idempotency_key)
            prompt = parse_prompt(ask.fields, scope=scope, label=ask.label, text=ask.text)
            stream = await self._service.open(prompt)
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
    prompt = parse_prompt(ask.fields, scope=scope, label=ask.label, text=ask.text)
    key = None
    if ask.idempotency_key is not None:
        key = make_key(ask.idempotency_key, ENDPOINT, prompt_json(ask.fields, text=ask.text))
    wire = {"max_tokens": prompt.sampling.max_tokens}
    draft = Draft(id=PREFIX + uuid.uuid4().hex, wire=wire, idempotency=key)
    return await responses.create(prompt, draft)


class StoredAnswer:
    """The documents with a number over `after`. The number is the position of the token, so it has
    gaps where a token brings no text; text that the end releases has the next one. An answer
    without any text is one document with that number, so that its reader learns the id.

    A reason to finish is on a document only where every reader finds it: the last token that
    `max_tokens` allows waits for the end, which is recorded next.
    """

    def __init__(self, reader: Reader, *, after: int) -> None:
        """`reader` starts behind `after`."""
        self.finish_reason: FinishReason | None = None
        self._reader = reader
        self._after = after
        self._id = reader.record.id
        self._last = reader.record.request["wire"]["max_tokens"] - 1
        self._held: OutputFields | None = None

    def usage(self) -> Usage | None:
        return self._reader.log.usage()

    async def __aiter__(self) -> AsyncIterator[list[OutputFields]]:
        """Raises the ChatError that keeps the answer from going on here."""
        while not self._reader.exhausted:
            documents = self._documents(await self._reader.read())
            if documents:
                yield documents
        if self._reader.record.error is not None:
            raise InternalError(self._reader.record.error)

    def _empty(self) -> list[OutputFields]:
        """What is read of an answer that ended without any text."""
        usage = self.usage()
        number = 0 if usage is None else usage.num_output_tokens
        self.finish_reason = FINISH_REASONS[self._reader.record.status]
        if number <= self._after:
            return []
        return [self._document(Delta(0, number, "", ())) | {"finish_reason": self.finish_reason}]

    def _documents(self, deltas: list[Delta]) -> list[OutputFields]:
        if self._reader.exhausted and not (self._reader.text or self._reader.record.error):
            return self._empty()
        held, self._held = self._held, None
        documents = [] if held is None else [held]
        for delta in deltas:
            is_shown = bool(delta.text) and delta.sequence_number > self._after
            if is_shown:
                documents.append(self._document(delta))
            if delta.finish_reason is not None:
                self.finish_reason = delta.finish_reason
                if is_shown or held is not None:
                    documents[-1]["finish_reason"] = delta.finish_reason.value
            elif is_shown and delta.sequence_number == self._last:
                self._held = documents.pop()
        return documents

    def _document(self, delta: Delta) -> OutputFields:
        tokens = self._reader.log.tokens
        last = delta.token_ids or [token.token_id for token in tokens[-1:]] or [-1]
        return output_document(self._id[len(PREFIX) :][:24], delta, last[-1]) | {
            "stream_id": self._id
        }


Documents = Answer | StoredAnswer
