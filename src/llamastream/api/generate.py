"""The one way from a POST that makes tokens to its answer: key, body, request, answer, delivery.

What differs between formats is an `Endpoint`, in the format's own file.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llamastream.api.deliver import StreamedAnswer, WholeAnswer
from llamastream.api.http.auth import scope_of
from llamastream.api.http.body import read_json
from llamastream.api.http.errors import check_model
from llamastream.api.http.idempotency import HEADER, idempotency_key, refuse_key
from llamastream.api.http.query import json_response
from llamastream.api.wire.format import Body, Caller, Endpoint, Format
from llamastream.api.wire.options import asked
from llamastream.config import ServeSettings
from llamastream.errors import InvalidRequest, Overloaded
from llamastream.generation import Answers, Generation, NewAnswer, StoredAnswers
from llamastream.records import IdempotencyKey
from llamastream.types import ChatRequest

REFUSED_AFTER_S = 0.1  # a tenth of the least that Retry-After asks for

Opened = TypeVar("Opened")


class Generate:
    """Refusals known at admission are raised, as ChatErrors, before anything is sent."""

    def __init__(
        self, answers: Answers, stored: StoredAnswers | None, settings: ServeSettings
    ) -> None:
        self._answers = answers
        self._stored = stored
        self._max_body_bytes = settings.max_body_bytes
        self._ping_interval_s = settings.ping_interval_s

    def handler(self, endpoint: Endpoint[Any]) -> Callable[[Request], Awaitable[ASGIApp]]:
        """The route's."""

        async def handle(request: Request) -> ASGIApp:
            raw, body = await read_json(request, self._max_body_bytes, endpoint.parse)
            if not body.is_stored:
                refuse_key(request.headers.get(HEADER))
            caller = caller_of(request, idempotency_key(request, raw))
            generation = await self.begin(endpoint, body, caller)
            wire = endpoint.format(generation)
            if generation.details.background and not body.stream:
                return Response(wire.whole(generation), media_type="application/json")
            return self.deliver(generation, wire, is_stream=bool(body.stream))

        return handle

    def counter(
        self, endpoint: Endpoint[Any], shown: dict[str, str]
    ) -> Callable[[Request], Awaitable[ASGIApp]]:
        """That of the route which says how long a prompt is, and what is `shown` besides. The model
        may be left out."""

        def parse(raw: dict[str, Any]) -> Any:
            return endpoint.parse({"model": self._answers.model_name} | asked(raw))

        async def handle(request: Request) -> ASGIApp:
            _, body = await read_json(request, self._max_body_bytes, parse)
            check_model(body.model, self._answers.model_name)
            defaults = self._answers.sampling
            asked_for, _ = await endpoint.plan(body, caller_of(request), defaults)
            fitted = await self._answers.fit(asked_for)
            return json_response({**shown, "input_tokens": len(fitted.ids)})

        return handle

    async def begin(self, endpoint: Endpoint[Body], body: Body, caller: Caller) -> Generation:
        """Begin an answer, or find the one that the caller's Idempotency-Key began."""
        check_model(body.model, self._answers.model_name)
        request, new = await endpoint.plan(body, caller, self._answers.sampling)
        return await begin(self._answers, self._stored, request, new)

    def deliver(self, generation: Generation, wire: Format, *, is_stream: bool) -> ASGIApp:
        if is_stream:
            return StreamedAnswer(generation, wire, ping_interval_s=self._ping_interval_s)
        return WholeAnswer(generation, wire)


async def begin(
    answers: Answers, stored: StoredAnswers | None, request: ChatRequest, new: NewAnswer
) -> Generation:
    """Raises as `Answers.open` does."""
    if not new.store:
        return await refused_later(answers.open(request, new))
    if stored is None:
        raise InvalidRequest("store: true needs a server with a store.", param="store")
    return await refused_later(stored.create(request, new))


async def refused_later(opening: Awaitable[Opened]) -> Opened:
    """Tell the refusals of `opening` that pass by themselves after REFUSED_AFTER_S: who asks again
    at once must not take the event loop's turns from those that are answered."""
    try:
        return await opening
    except Overloaded:
        await asyncio.sleep(REFUSED_AFTER_S)
        raise


def caller_of(request: Request, key: IdempotencyKey | None = None) -> Caller:
    return Caller(scope_of(request), request.state.label, key)
