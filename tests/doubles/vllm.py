"""A stand-in for `vllm serve` that speaks the wire recorded from vLLM 0.32.0, on either path.

What it draws is a function of all ids before, as a model's is: so an answer that goes on elsewhere
is the same, or has lost or repeated a token.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from llamastream.types import GenerationRequest

VOCAB_SIZE = 259


def next_id(ids: Sequence[int]) -> int:
    return (sum(ids) * 31 + len(ids) * 7) % 250


def expected(request: GenerationRequest, num_tokens: int) -> list[int]:
    """What any of them draws for a request."""
    ids = [*request.prompt_ids, *request.output_ids]
    for _ in range(num_tokens):
        ids.append(next_id(ids))
    return ids[len(request.prompt_ids) + len(request.output_ids) :]


class StandIn:
    """`dies_after`: so many tokens, of all requests together. `holds_after`: of each request."""

    def __init__(self, *, offers_generate: bool = True, max_model_len: int = 512) -> None:
        self.offers_generate = offers_generate
        self.max_model_len = max_model_len
        self.key: str | None = None
        self.dies_after: int | None = None
        self.holds_after: int | None = None
        self.fails_with: dict[str, Any] | None = None  # in the stream, after its 200
        self.tokens_of_a_text: list[int] | None = None
        self._is_met = False
        self.is_dead = False
        self.is_hung = False
        self.num_checks = 0  # since the model was compared
        self.num_open = 0
        self.num_drawn = 0
        self.bodies: list[dict[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/inference/v1/generate", self._generate, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        self.num_checks += bool(self._is_met)
        if self.is_hung:
            await asyncio.Event().wait()
        return Response(status_code=503 if self.is_dead else 200)

    async def _models(self, request: Request) -> Response:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        adapter = {"id": "an-adapter", "max_model_len": 16, "parent": "the-model"}
        model = {"id": "the-model", "max_model_len": self.max_model_len, "parent": None}
        return JSONResponse({"object": "list", "data": [adapter, model]})

    async def _tokenize(self, request: Request) -> Response:
        self._is_met = True
        text = (await request.json())["prompt"]
        tokens = list(text.encode()) if self.tokens_of_a_text is None else self.tokens_of_a_text
        return JSONResponse({"count": len(tokens), "tokens": tokens})

    async def _generate(self, request: Request) -> Response:
        if not self.offers_generate:
            return _error(403, "Scale-out endpoints are disabled.")
        body = await request.json()
        if "token_ids" not in body:
            return _error(400, "2 validation errors: token_ids, sampling_params")
        return self._answer(body, body["token_ids"], body["sampling_params"])

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        return self._answer(body, body["prompt"], body)

    def _answer(self, body: dict[str, Any], ids: list[int], sampling: dict[str, Any]) -> Response:
        self.bodies.append(body)
        if self.is_dead:
            return _error(500, "EngineCore encountered an issue.")
        return StreamingResponse(self._stream(ids, sampling), media_type="text/event-stream")

    async def _stream(self, ids: list[int], sampling: dict[str, Any]) -> AsyncIterator[str]:
        self.num_open += 1
        try:
            if self.fails_with is not None:
                yield _event({"error": self.fails_with})
            else:
                async for choice in self._choices(list(ids), sampling):
                    yield _event({"choices": [choice]})
            yield "data: [DONE]\n\n"
        finally:
            self.num_open -= 1

    async def _choices(
        self, ids: list[int], sampling: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        for position in range(sampling["max_tokens"]):
            if self.holds_after == position:
                await asyncio.Event().wait()
            if self.dies_after is not None and self.num_drawn >= self.dies_after:
                self.is_dead = True
            if self.is_dead:
                raise ConnectionResetError("the stand-in was killed")
            token_id = next_id(ids)
            ids.append(token_id)
            self.num_drawn += 1
            is_stop = token_id in sampling["stop_token_ids"]
            is_last = is_stop or position == sampling["max_tokens"] - 1
            finish = ("stop" if is_stop else "length") if is_last else None
            yield {
                "index": 0,
                "token_ids": [token_id],
                "finish_reason": finish,
                "logprobs": self._logprobs(token_id, sampling.get("logprobs")),
            }
            await asyncio.sleep(0)
            if is_stop:
                return

    def _logprobs(self, token_id: int, asked: int | None) -> dict[str, Any] | None:
        """As vLLM: the token that was drawn first, whatever its place, and then the likeliest."""
        if asked is None:
            return None
        likeliest = [(i, -0.25 * (i + 1)) for i in range(asked)]
        top = [(token_id, -9.5), *likeliest]
        if self.offers_generate:
            top = top[: max(asked, 1)]
            entries = [{"token_id": i, "logprob": value, "rank": 1} for i, value in top]
            return {"content": [entries[0] | {"top_logprobs": entries}]}
        by_token = {f"token_id:{i}": value for i, value in top}
        tokens = [f"token_id:{token_id}"]
        return {"tokens": tokens, "token_logprobs": [-9.5], "top_logprobs": [by_token]}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)
