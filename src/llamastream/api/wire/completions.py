"""Text completions on the wire: the body of a request, and `text_completion`, whole and in chunks
of the same shape."""

import codecs
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import Field, WithJsonSchema

from llamastream.api.wire.format import START, Caller, Endpoint, Format
from llamastream.api.wire.grammars import FormatOptions
from llamastream.api.wire.openai import (
    FINISH_REASONS,
    Answer,
    ChunkFormat,
    Shown,
    event,
    finite,
    token_string,
    usage_fields,
)
from llamastream.api.wire.options import MAX_CHOICES, GenerationOptions, validate
from llamastream.errors import InvalidRequest
from llamastream.generation import Generation, NewAnswer
from llamastream.sampling import MAX_LOGPROBS, SamplingParams
from llamastream.types import ChatRequest, Delta, FinishReason, TokenLogprob, Usage

PREFIX = "cmpl-"
DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this endpoint only

TOKENS_SCHEMA = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        TOKENS_SCHEMA,
        {"type": "array", "items": {"anyOf": [{"type": "string"}, TOKENS_SCHEMA]}, "minItems": 1},
    ]
}


class CompletionBody(GenerationOptions, FormatOptions):
    """`prompt` is a text, a list of token ids, or a list of such prompts."""

    UNSUPPORTED = {
        "best_of": (1,),
        "suffix": ("",),
    }

    prompt: Annotated[Any, WithJsonSchema(PROMPT_SCHEMA)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    # 0: the prompt alone is read. -1 is told from null, which stands for the default.
    max_tokens: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    echo: bool | None = None

    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """Raises InvalidRequest."""
        if self.truncation == "auto":
            raise InvalidRequest(
                "truncation: auto drops turns of a chat; a text prompt has none. Leave it out.",
                param="truncation",
            )
        given = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        max_tokens = None if given == -1 else given
        sampling = self.sampling(defaults, max_tokens, self.logprobs, self.logit_bias)
        first, *more = _prompts(self.prompt, MAX_CHOICES // (self.n or 1))
        request = self.build(first, sampling, scope=scope, label=label)
        asked = [self.prompt_logprobs, self.logprobs if self.echo else None]
        most = max((n for n in asked if n is not None), default=None)
        return replace(
            request,
            more_prompts=tuple(more),
            prompt_logprobs=most,
            grammar=self.asked_grammar,
        )


class Offsets:
    """Where in a text its tokens begin, from the bytes of each that are shown."""

    def __init__(self) -> None:
        self.num_chars = 0  # that are whole; less than none while a space in front is not shown
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, raw: bytes) -> int:
        """The token's, which may go on with a character that was begun in the token before."""
        was_begun = bool(self._decoder.getstate()[0])
        first = self._decoder.decode(raw[:1])
        # What will never be a character comes out as one of its own, in front of this token.
        is_given_up = was_begun and raw and (len(first) > 1 or not _continues(raw[0]))
        offset = self.num_chars + bool(is_given_up)
        self.num_chars += len(first) + len(self._decoder.decode(raw[1:]))
        return max(offset, 0)


class CompletionFormat(ChunkFormat):
    """A delta is a chunk; the last one of a choice carries its finish reason."""

    kind = "text_completion"

    def __init__(self, answer: Answer, *, echo: bool = False) -> None:
        super().__init__(answer)
        self._is_plain = not (answer.logprobs or answer.return_token_ids or echo)
        self._to_echo = set(range(answer.n)) if echo else set()
        self._offsets = [Offsets() for _ in range(answer.n)]
        self._started = False
        self._before = [self._split(index)[0] for index in range(answer.n)]
        self._after = self._split(0)[1]

    def frames(self, delta: Delta) -> list[bytes]:
        if self._is_plain and self._started and delta.finish_reason is None:
            if not delta.text:
                return []
            return [self._before[delta.choice] + orjson.dumps(delta.text) + self._after]
        chunk = self._chunk(self._choice(delta, delta.finish_reason))
        if not self._started:
            chunk |= self._answer.extras()
            self._started = True
        return [event(chunk)]

    def completion(self, deltas: list[Delta], usage: Usage) -> dict[str, Any]:
        choices = [
            self._choice(delta, delta.finish_reason) | self._answer.of_prompt(delta.choice)
            for delta in deltas
        ]
        head = self._answer.head(self.kind)
        return {**head, "choices": choices, "usage": usage_fields(usage), **self._answer.extras()}

    def _choice(self, delta: Delta, finish: FinishReason | None) -> dict[str, Any]:
        text, entries = self._echo(delta.choice)
        choice: dict[str, Any] = {
            "index": delta.choice,
            "text": text + delta.text,
            "logprobs": self._logprobs(delta.choice, entries, delta.logprobs),
            "finish_reason": None if finish is None else FINISH_REASONS[finish],
        }
        if self._answer.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._answer.head("text_completion"), "choices": [choice]}
        if self._answer.include_usage:
            chunk["usage"] = None
        return chunk

    def _split(self, index: int) -> tuple[bytes, bytes]:
        """A plain chunk's bytes before and after its text."""
        choice = {"index": index, "text": 0, "logprobs": None, "finish_reason": None}
        before, _, after = event(self._chunk(choice)).partition(b'"text":0')
        return before + b'"text":', after

    def _echo(self, index: int) -> tuple[str, list[TokenLogprob]]:
        """What comes once in front of a choice's text, where that was asked for: its prompt."""
        if index not in self._to_echo:
            return "", []
        self._to_echo.remove(index)
        choice = self._answer.choices[index]
        text, most = choice.prompt_text(), choice.request.sampling.logprobs or 0
        entries = [entry._replace(top=entry.top[:most]) for entry in choice.prompt]
        entries = [choice.first_prompt_token(), *entries]
        # A text does not show the space that SentencePiece puts in front of it.
        written = b"".join(entry.token for entry in entries).decode(errors="replace")
        self._offsets[index].num_chars = len(text) - len(written)
        return text, entries

    def _logprobs(
        self, index: int, prompt: Sequence[TokenLogprob], drawn: Sequence[TokenLogprob]
    ) -> dict[str, Any] | None:
        if not self._answer.logprobs:
            return None
        entries = (*prompt, *drawn)
        shown = [entry.token for entry in prompt]
        shown += (self._answer.choices[index].shown_bytes(entry.token_id) for entry in drawn)
        found: dict[str, Any] = {
            "tokens": [token_string(entry) for entry in entries],
            "token_logprobs": [finite(entry.logprob) for entry in entries],
            "top_logprobs": [
                {token_string(top): finite(top.logprob) for top in (*entry.top, entry)}
                for entry in entries
            ],
            "text_offset": [self._offsets[index].add(raw) for raw in shown],
        }
        if prompt:  # nothing comes before the first, so nothing tells how likely it is
            found["token_logprobs"][0] = found["top_logprobs"][0] = None
        return found


class CompletionEndpoint(Endpoint[CompletionBody]):
    def parse(self, raw: dict[str, Any]) -> CompletionBody:
        return validate(CompletionBody, raw)

    async def plan(
        self, body: CompletionBody, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        request = body.to_request(defaults, caller.scope, caller.label)
        shown = Shown.of(body, logprobs=body.logprobs is not None, echo=bool(body.echo))
        return request, NewAnswer(PREFIX + uuid.uuid4().hex, shown.to_json())

    def format(self, generation: Generation, after: int = START) -> Format:
        return CompletionFormat(Answer.of(generation), echo=generation.details.wire["echo"])


def _prompts(value: Any, maximum: int) -> tuple[str | tuple[int, ...], ...]:
    if not (isinstance(value, list) and value and isinstance(value[0], str | list)):
        return (_prompt(value),)
    if len(value) > maximum:
        raise InvalidRequest(
            f"prompt must hold <= {maximum} prompts: {MAX_CHOICES} choices in all. "
            f"Given: {len(value)}.",
            param="prompt",
        )
    return tuple(map(_prompt, value))


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token_id) is int for token_id in value):
        return tuple(value)
    raise InvalidRequest(
        "prompt must be a string, a list of token ids, or a list of such prompts.", param="prompt"
    )


def _continues(byte: int) -> bool:
    """Whether a byte of UTF-8 continues a character."""
    return byte & 0xC0 == 0x80
