"""What the wire formats of chat and text completions have in common.

A frame is one server-sent event. Nearly all of its bytes are the same for a whole stream, so they
are built once and only the text is encoded per token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from llamastream.types import Delta, FinishReason, TokenLogprob, Usage

DONE = b"data: [DONE]\n\n"
NO_LOGPROB = -9999.0  # OpenAI's value for a token too unlikely to have one
# A request that was cancelled has nobody to read this, unless an operator ended it.
FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "stop",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What every piece of one answer repeats, and what its client asked to see."""

    id: str
    created: int  # Unix time, seconds
    model: str
    n: int  # choices, of all prompts
    prompts: tuple[tuple[int, ...], ...]  # token ids
    num_dropped_turns: int | None  # None: truncation was not asked for
    include_usage: bool = False
    return_token_ids: bool = False
    logprobs: bool = False

    def head(self, kind: str) -> dict[str, Any]:
        """The fields in front of `choices`."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def extras(self) -> dict[str, Any]:
        """Fields beyond OpenAI's, said once per answer."""
        found: dict[str, Any] = {}
        if self.return_token_ids:
            found["prompt_token_ids"] = self.prompts if len(self.prompts) > 1 else self.prompts[0]
        if self.num_dropped_turns is not None:
            found["num_dropped_turns"] = self.num_dropped_turns
        return found

    def last_frames(self, kind: str, usage: Usage) -> list[bytes]:
        """What follows the last delta."""
        if not self.include_usage:
            return [DONE]
        return [event({**self.head(kind), "choices": [], "usage": usage_fields(usage)}), DONE]


class Format(Protocol):
    """Turns the deltas of one answer into bytes. One instance per answer."""

    def frames(self, delta: Delta) -> list[bytes]:
        """Server-sent events of one delta; none for one that shows nothing."""
        ...

    def last_frames(self, usage: Usage) -> list[bytes]:
        """What follows the last delta."""
        ...

    def whole(self, deltas: list[Delta], usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""
        ...


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def usage_fields(usage: Usage) -> dict[str, Any]:
    prompt, cached, output = usage
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def token_string(token: TokenLogprob) -> str:
    """A token's bytes as text; part of a character as OpenAI writes it, `bytes:\\xf0\\x9f`."""
    try:
        return token.token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.token)


def logprob_entries(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """As in chats and responses."""
    return [_entry(token) | {"top_logprobs": list(map(_entry, token.top))} for token in tokens]


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token_string(token),
        "logprob": finite(token.logprob),
        "bytes": list(token.token),
    }


def finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, NO_LOGPROB)


def by_choice(deltas: list[Delta], n: int) -> list[Delta]:
    """One delta per choice, joined from all of its."""
    joined = []
    for index in range(n):
        own = [delta for delta in deltas if delta.choice == index]
        text = "".join(delta.text for delta in own)
        token_ids = tuple(i for delta in own for i in delta.token_ids)
        logprobs = tuple(entry for delta in own for entry in delta.logprobs)
        last = own[-1]
        joined.append(last._replace(text=text, token_ids=token_ids, logprobs=logprobs))
    return joined
