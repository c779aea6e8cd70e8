"""A message on the wire: the object, and the events of its stream.

A block opens with its first piece and closes when another begins. The events are those of the
SDKs' accumulators: what they add up to is the whole message.
"""

import hashlib
from dataclasses import replace
from typing import Any

import orjson
from pydantic_core import from_json

from llamastream.api.http.anthropic_errors import anthropic_error
from llamastream.api.wire.format import Format, end_of
from llamastream.errors import ChatError
from llamastream.generation import Generation
from llamastream.generation.log import with_text
from llamastream.types import (
    Delta,
    FinishReason,
    OtherPart,
    Part,
    Reasoning,
    ToolCall,
    Usage,
)

Json = dict[str, Any]


class MessageFormat(Format):
    """How many of the prompt's tokens came from the cache is known at the end: till then, none."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, generation: Generation) -> None:
        wire = generation.details.wire
        self._model: str = wire["model"]
        self._max_tokens: int = wire["max_tokens"]
        self._id = generation.id
        self._num_prompt_tokens = generation.usage().num_prompt_tokens
        self._index = -1  # of the open block
        self._open: object = None  # what tells the open block from others
        self._before, self._after = b"", b""  # a piece's text, in its event
        self._thought: list[str] = []

    def opening(self) -> list[bytes]:
        usage = Usage(self._num_prompt_tokens, 0, 0)
        message = self._message([], None, None, usage_fields(usage))
        return [event("message_start", {"message": message}), self.ping]

    def frames(self, delta: Delta) -> list[bytes]:
        if not delta.parts and self._open == "text":  # mostly
            return [self._piece(delta.text)] if delta.text else []
        pieces = with_text(delta.parts, delta.text) if delta.parts or delta.text else ()
        frames: list[bytes] = []
        for piece in pieces:
            if _whose(piece) != self._open:
                frames += [*self._close(), self._begin(piece)]
            if isinstance(piece, Reasoning):
                self._thought.append(piece.text)
            frames.append(self._piece(_text_of(piece)))
        return frames

    def closing(self, generation: Generation) -> list[bytes]:
        end = end_of(generation)
        assert end.usage is not None
        reason, stop = self._stopped(generation)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        said = {"warnings": end.warnings} if end.warnings else {}
        body = {"delta": delta, "usage": usage_fields(end.usage), **said}
        return [*self._close(), event("message_delta", body), event("message_stop", {})]

    def error(self, error: ChatError) -> bytes:
        _, body = anthropic_error(error)
        return event("error", body)

    def whole(self, generation: Generation) -> bytes:
        end = end_of(generation)
        assert end.usage is not None
        blocks = [_block(part) for part in generation.log.parts() if part != ""]
        message = self._message(blocks, *self._stopped(generation), usage_fields(end.usage))
        return orjson.dumps(message | ({"warnings": end.warnings} if end.warnings else {}))

    def _message(
        self, content: list[Json], reason: str | None, stop: str | None, usage: Json
    ) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _stopped(self, generation: Generation) -> tuple[str, str | None]:
        """Why it ended, and the text that did it."""
        (choice,) = generation.choices
        if choice.finish_reason is FinishReason.LENGTH:
            is_asked = choice.num_output_tokens >= self._max_tokens
            return "max_tokens" if is_asked else "model_context_window_exceeded", None
        stop = choice.stop_string
        if stop is None and any(isinstance(part, ToolCall) for part in generation.log.parts()):
            return "tool_use", None
        return ("end_turn" if stop is None else "stop_sequence"), stop

    def _begin(self, piece: Part) -> bytes:
        self._open, self._index, self._thought = _whose(piece), self._index + 1, []
        kind, name = _DELTAS[type(piece)]
        body = {"index": self._index, "delta": {"type": kind, name: 0}}
        self._before, _, self._after = event("content_block_delta", body).partition(b"0}}")
        self._after = b"}}" + self._after
        empty = _block("" if isinstance(piece, str) else _emptied(piece))
        return event("content_block_start", {"index": self._index, "content_block": empty})

    def _piece(self, text: str) -> bytes:
        return self._before + orjson.dumps(text) + self._after

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        frames = [event("content_block_stop", {"index": self._index})]
        if self._open == "thinking":
            signed = {"type": "signature_delta", "signature": signature("".join(self._thought))}
            body = {"index": self._index, "delta": signed}
            frames.insert(0, event("content_block_delta", body))
        self._open = None
        return frames


_DELTAS: dict[type[Part], tuple[str, str]] = {
    str: ("text_delta", "text"),
    Reasoning: ("thinking_delta", "thinking"),
    ToolCall: ("input_json_delta", "partial_json"),
}


def _whose(piece: Part) -> object:
    """The same for pieces of one block."""
    if isinstance(piece, ToolCall):
        return "tool_use", piece.id
    return "text" if isinstance(piece, str) else "thinking"


def _emptied(piece: OtherPart) -> OtherPart:
    return replace(piece, arguments="") if isinstance(piece, ToolCall) else Reasoning("")


def _text_of(piece: Part) -> str:
    match piece:
        case str():
            return piece
        case ToolCall():
            return piece.arguments
        case _:
            return piece.text


def _block(part: Part) -> Json:
    match part:
        case str():
            return {"type": "text", "text": part}
        case ToolCall():
            # Of a call that was cut off, what there is: as the SDKs read a stream of it.
            given = from_json(part.arguments or "{}", allow_partial=True)
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": given}
        case _:
            signed = signature(part.text) if part.text else ""
            return {"type": "thinking", "thinking": part.text, "signature": signed}


def signature(thought: str) -> str:
    """Of a thinking block. Clients send a block back only with one; a digest does. Nobody checks
    it: whoever sends a conversation may write what they like into it."""
    return hashlib.sha256(thought.encode("utf-8", "replace")).hexdigest()


def usage_fields(usage: Usage) -> Json:
    """Tokens read from the cache are no `input_tokens` here. All others are written to it."""
    prompt, cached, output, reasoning = usage
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
        **({"output_tokens_details": {"thinking_tokens": reasoning}} if reasoning else {}),
    }


def event(kind: str, body: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **body}))
