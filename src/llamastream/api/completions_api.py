"""POST /v1/chat/completions and /v1/completions."""

import time
from functools import partial

from starlette.requests import Request
from starlette.types import ASGIApp

from llamastream.api.delivery import EventStream, WholeAnswer
from llamastream.api.http.body import read_json
from llamastream.api.http.errors import check_model
from llamastream.api.http.idempotency import HEADER, refuse_key
from llamastream.api.stored_chat import StoredChatApi
from llamastream.api.wire.chat import ChatCompletionBody, ChatFormat
from llamastream.api.wire.completions import CompletionBody, CompletionFormat
from llamastream.api.wire.openai import Answer, Format
from llamastream.api.wire.options import GenerationOptions, validate
from llamastream.config import ServeSettings
from llamastream.errors import InvalidRequest
from llamastream.generation.chat_service import ChatService
from llamastream.generation.stream import Stream


class CompletionsApi:
    """Refusals known at admission are raised, as ChatErrors, before anything is sent."""

    def __init__(
        self,
        service: ChatService,
        settings: ServeSettings,
        stored: StoredChatApi | None,
    ) -> None:
        self._service = service
        self._stored = stored
        self._max_body_bytes = settings.max_body_bytes
        self._ping_interval_s = settings.ping_interval_s

    async def chat(self, request: Request) -> ASGIApp:
        parse = partial(validate, ChatCompletionBody)
        raw, body = await read_json(request, self._max_body_bytes, parse)
        check_model(body.model, self._service.model_name)
        if body.store:
            return await self._store().create(request, raw, body)
        refuse_key(request.headers.get(HEADER))
        stream = await self._open(request, body)
        answer = self._answer("chatcmpl-", stream, body, logprobs=bool(body.logprobs))
        return self._deliver(stream, body, ChatFormat(answer, body.metadata))

    async def completion(self, request: Request) -> ASGIApp:
        parse = partial(validate, CompletionBody)
        _, body = await read_json(request, self._max_body_bytes, parse)
        check_model(body.model, self._service.model_name)
        refuse_key(request.headers.get(HEADER))
        stream = await self._open(request, body)
        answer = self._answer("cmpl-", stream, body, logprobs=body.logprobs is not None)
        return self._deliver(stream, body, CompletionFormat(answer))

    def _store(self) -> StoredChatApi:
        if self._stored is None:
            raise InvalidRequest("store: true needs a server with a store.", param="store")
        return self._stored

    async def _open(self, request: Request, body: GenerationOptions) -> Stream:
        state = request.state
        defaults = self._service.sampling
        return await self._service.open(body.to_request(defaults, state.key_scope, state.label))

    def _answer(
        self, prefix: str, stream: Stream, body: GenerationOptions, *, logprobs: bool
    ) -> Answer:
        return Answer(
            id=prefix + stream.id,
            created=int(time.time()),
            model=body.model,
            n=(body.n or 1) * len(stream.prompts),
            prompts=stream.prompts,
            num_dropped_turns=stream.num_dropped_turns if body.truncation == "auto" else None,
            include_usage=body.include_usage,
            return_token_ids=bool(body.return_token_ids),
            logprobs=logprobs,
        )

    def _deliver(self, stream: Stream, body: GenerationOptions, wire: Format) -> ASGIApp:
        if body.stream:
            return EventStream(stream, wire, ping_interval_s=self._ping_interval_s)
        return WholeAnswer(stream, wire)
