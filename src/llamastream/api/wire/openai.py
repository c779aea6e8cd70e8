"""What the wire formats of chat and text completions have in common.

A frame is one server-sent event. Nearly all of its bytes are the same for a whole stream, so they
are built once and only the text is encoded per token.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import orjson

from llamastream.api.http.errors import error_body, error_fields
from llamastream.api.wire.format import Format, end_of
from llamastream.api.wire.options import GenerationOptions
from llamastream.errors import ChatError
from llamastream.generation import End, Generation
from llamastream.generation.choice import Choice
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
class Shown:
    """What an answer repeats of its request, and what its client asked to see; kept with it."""

    model: str
    metadata: dict[str, str] | None
    include_usage: bool
    return_token_ids: bool
    logprobs: bool
    shows_dropped_turns: bool
    prompt_logprobs: int | None = None
    echo: bool = False

    @classmethod
    def of(
        cls,
        body: GenerationOptions,
        *,
        logprobs: bool,
        metadata: Any = None,
        echo: bool = False,
    ) -> Self:
        return cls(
            model=body.model,
            metadata=metadata,
            include_usage=body.include_usage,
            return_token_ids=bool(body.return_token_ids),
            logprobs=logprobs,
            shows_dropped_turns=body.truncation == "auto",
            prompt_logprobs=body.prompt_logprobs,
            echo=echo,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    prompt_logprobs: int | None = None
    choices: Sequence[Choice] = ()

    @classmethod
    def of(cls, generation: Generation) -> Self:
        details = generation.details
        shown = Shown(**details.wire)
        return cls(
            id=generation.id,
            created=int(generation.created_at),
            model=shown.model,
            n=len(generation.choices),
            prompts=generation.prompts,
            num_dropped_turns=details.num_dropped_turns if shown.shows_dropped_turns else None,
            include_usage=shown.include_usage,
            return_token_ids=shown.return_token_ids,
            logprobs=shown.logprobs,
            prompt_logprobs=shown.prompt_logprobs,
            choices=generation.choices,
        )

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

    def of_prompt(self, index: int) -> dict[str, Any]:
        """vLLM's field with the log-probabilities of a choice's prompt, if they were asked for."""
        most = self.prompt_logprobs
        if most is None:
            return {}
        entries = (_by_id(entry, most) for entry in self.choices[index].prompt)
        return {"prompt_logprobs": [None, *entries]}

    def last_frames(self, kind: str, end: End) -> list[bytes]:
        """What follows the last delta."""
        said: dict[str, Any] = {}
        if self.include_usage:
            assert end.usage is not None
            said["usage"] = usage_fields(end.usage)
        if end.warnings:
            said["warnings"] = end.warnings
        return [event({**self.head(kind), "choices": [], **said}), DONE] if said else [DONE]


class ChunkFormat(Format):
    """What chats and text completions share: chunks of one kind, and errors as data."""

    kind: str

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def closing(self, generation: Generation) -> list[bytes]:
        return self._answer.last_frames(self.kind, end_of(generation))

    def error(self, error: ChatError) -> bytes:
        return b"data: " + error_body(error) + b"\n\n"

    def whole(self, generation: Generation) -> bytes:
        end = end_of(generation)
        assert end.usage is not None
        said = {"warnings": end.warnings} if end.warnings else {}
        deltas = generation.log.joined(self._answer.n)
        return orjson.dumps(self.completion(deltas, end.usage) | said)

    @abstractmethod
    def completion(self, deltas: list[Delta], usage: Usage) -> dict[str, Any]:
        """The object of one delta per choice."""


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def error_event(error: ChatError, number: int) -> bytes:
    """The JSON of an error inside a numbered stream. `number` is that of the event before it, so
    that resuming behind it loses nothing."""
    fields = {
        "type": "error",
        "sequence_number": max(number, 0),
        "status": error.status,
        "error": error_fields(error),
    }
    return orjson.dumps(fields)


def usage_fields(usage: Usage) -> dict[str, Any]:
    prompt, cached, output, reasoning = usage
    fields = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    return fields | (
        {"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {}
    )


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


def _by_id(token: TokenLogprob, most: int) -> dict[str, Any]:
    """The token and the likeliest, by their ids. Only of the likeliest the rank is known."""
    ranked = {top.token_id: (top, rank) for rank, top in enumerate(token.top[:most], 1)}
    found = {token.token_id: (token, None)} | ranked
    return {
        str(token_id): {
            "logprob": finite(entry.logprob),
            "rank": rank,
            "decoded_token": token_string(entry),
        }
        for token_id, (entry, rank) in found.items()
    }


def finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, NO_LOGPROB)
