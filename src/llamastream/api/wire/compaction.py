"""Compaction on the wire: a conversation in, one item out that stands for it in a later input."""

from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import Field

from llamastream.api.wire.format import START, Caller, Format, end_of
from llamastream.api.wire.messages import Input
from llamastream.api.wire.options import Label, WireModel, validate
from llamastream.api.wire.response_events import usage_json
from llamastream.api.wire.responses import (
    MAX_INSTRUCTIONS_CHARS,
    ResponseBody,
    ResponseEndpoint,
    parse_response,
)
from llamastream.api.wire.summaries import summary_item
from llamastream.errors import ChatError, InvalidRequest
from llamastream.generation import Generation, NewAnswer
from llamastream.sampling import SamplingParams
from llamastream.types import ChatRequest, Delta, Message

ASKED = (
    "Summarise our conversation so far for yourself, so that you can go on with it knowing nothing "
    "else: names, facts, decisions and what is still to be done. Write the summary only."
)
MAX_SUMMARY_TOKENS = 512


class CompactBody(WireModel):
    model: str
    input: Input = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS_CHARS)] | None = None
    previous_response_id: str | None = None
    prompt_cache_key: Label | None = None


class CompactEndpoint(ResponseEndpoint):
    """A response that nobody keeps, of the conversation and the request to summarise it."""

    shows_unfinished = False

    def parse(self, raw: dict[str, Any]) -> ResponseBody:
        body = validate(CompactBody, raw)
        given = body.input if body.input is not None else []
        items = [_user(given)] if isinstance(given, str) else given
        if not isinstance(items, list):
            raise InvalidRequest("input must be a string or a list of messages.", param="input")
        if not items and body.previous_response_id is None:
            raise InvalidRequest("input is required.", param="input")
        fields = body.model_dump(exclude_none=True) | {"input": [*items, _user(ASKED)]}
        summary = {"max_output_tokens": MAX_SUMMARY_TOKENS, "truncation": "auto", "temperature": 0}
        return parse_response(fields | summary | {"store": False})

    async def plan(
        self, body: ResponseBody, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        """What is asked goes into the last message where that is the user's: many templates want
        turns to be taken."""
        request, new = await super().plan(body, caller, defaults)
        *said, asked = (part for part in request.prompt if isinstance(part, Message))
        if said and said[-1].role == "user":
            said[-1] = replace(said[-1], content=f"{said[-1].text}\n\n{asked.text}")
            request = replace(request, prompt=tuple(said))
        return request, new

    def format(self, generation: Generation, after: int = START) -> Format:  # type: ignore[override]
        return CompactFormat()


class CompactFormat(Format):
    """Whole only."""

    def frames(self, delta: Delta) -> list[bytes]:
        raise NotImplementedError

    def closing(self, generation: Generation) -> list[bytes]:
        raise NotImplementedError

    def error(self, error: ChatError) -> bytes:
        raise NotImplementedError

    def whole(self, generation: Generation) -> bytes:
        end = end_of(generation)
        assert end.usage is not None
        name = generation.id.partition("_")[2]
        return orjson.dumps(
            {
                "id": generation.id,
                "object": "response.compaction",
                "created_at": int(generation.created_at),
                "output": [summary_item(f"cmp_{name}", generation.log.text())],
                "usage": usage_json(end.usage),
            }
        )


def _user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}
