"""An answer as ModelOutputDocuments. A delta without text makes none: a reader gets one document
per token that brings text, or a piece of a call."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from llamastream.api.wire.format import START, Format, end_of
from llamastream.errors import ChatError
from llamastream.generation import Generation
from llamastream.generation.generation import FINISH_REASONS
from llamastream.types import Delta, FinishReason, ToolCall

PREFIX = "stream_"  # of the ids of answers
MAX_APART = 64  # deltas kept apart for a reader that is briefly behind, about a second's worth


@dataclass(frozen=True, slots=True)
class DocumentShown:
    """What of a request shapes the documents of its answer; kept with it."""

    max_tokens: int | None


OutputFields = dict[str, str | int | float]
"""The fields of one ModelOutputDocument; those without a value are absent."""


class Documents:
    """The documents with a number over `after`. The number is the position of the token, so it has
    gaps where a token brings no text; text that the end releases has the next one. A document's id
    is unique and its last 8 digits are its number: ids of one answer share their beginning.

    A reason to finish is on a document only where every reader finds it: the last token that
    `max_tokens` allows waits for the end, which comes next.
    """

    def __init__(self, generation: Generation, *, after: int = START) -> None:
        self._generation = generation
        self._after = after
        max_tokens = DocumentShown(**generation.details.wire).max_tokens
        self._last = None if max_tokens is None else max_tokens - 1
        self._held: OutputFields | None = None

    def of_delta(self, delta: Delta) -> list[OutputFields]:
        held, self._held = self._held, None
        found = [] if held is None else [held]
        is_shown = bool(delta.text or _calls_of(delta)) and delta.sequence_number > self._after
        if is_shown:
            found.append(self._document(delta))
        if delta.finish_reason is not None:
            if found:
                found[-1]["finish_reason"] = delta.finish_reason.value
        elif is_shown and delta.sequence_number == self._last:
            self._held = found.pop()
        return found

    def of_end(self) -> list[OutputFields]:
        """A stored answer without any text is one document, so that its reader learns the id.

        Raises the error that it ended with.
        """
        generation = self._generation
        end = end_of(generation)
        has_calls = any(isinstance(part, ToolCall) for part in generation.log.parts())
        if not generation.is_stored or has_calls or generation.log.text():
            return []
        number = 0 if end.usage is None else end.usage.num_output_tokens
        if number <= self._after:
            return []
        reason = FINISH_REASONS[end.status].value
        return [self._document(Delta(0, number, "", ())) | {"finish_reason": reason}]

    def _document(self, delta: Delta) -> OutputFields:
        generation = self._generation
        last = delta.token_ids or generation.log.token_ids()[-1:] or (-1,)
        prefix = generation.id.removeprefix(PREFIX)[:24]
        document: OutputFields = {
            "id": f"{prefix}{delta.sequence_number & 0xFFFFFFFF:08x}",
            "token_id": last[-1],
            "generated_text": delta.text,
            "sequence_number": delta.sequence_number,
        }
        if calls := _calls_of(delta):
            document["tool_calls"] = json.dumps(calls, ensure_ascii=False)
        if delta.logprobs:
            document["logprob"] = delta.logprobs[-1].logprob
        if generation.is_stored:
            document["stream_id"] = generation.id
        return document


class DocumentFormat(Format):
    """Documents as `encode` writes each. No pings: the stock client takes none."""

    def __init__(
        self,
        generation: Generation,
        *,
        after: int,
        encode: Callable[[OutputFields], bytes],
        encode_error: Callable[[ChatError], bytes],
        last: list[bytes],
    ) -> None:
        """`last` follows the documents of an answer that ended well."""
        self.start = after + 1
        self._is_stored = generation.is_stored
        self._documents = Documents(generation, after=after)
        self._encode = encode
        self._encode_error = encode_error
        self._end = last

    def gather(self, deltas: list[Delta]) -> list[Delta]:
        """What waits in a socket reaches the stock client cut anywhere. So one that lags gets few
        large documents, unless theirs must be the same for every reader."""
        return deltas if self._is_stored or len(deltas) <= MAX_APART else [_joined(deltas)]

    def frames(self, delta: Delta) -> list[bytes]:
        return list(map(self._encode, self._documents.of_delta(delta)))

    def closing(self, generation: Generation) -> list[bytes]:
        return [*map(self._encode, self._documents.of_end()), *self._end]

    def error(self, error: ChatError) -> bytes:
        return self._encode_error(error)


def _joined(deltas: list[Delta]) -> Delta:
    return deltas[-1]._replace(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
        parts=tuple(part for delta in deltas for part in delta.parts),
    )


def _calls_of(delta: Delta) -> list[dict[str, str]]:
    """Pieces of calls: those of one call have its id, and their arguments add up."""
    return [
        {"id": part.id, "name": part.name, "arguments": part.arguments}
        for part in delta.parts
        if isinstance(part, ToolCall)
    ]


def finish_reason_of(generation: Generation) -> FinishReason | None:
    """Why an answer that has ended did so."""
    return None if generation.end is None else FINISH_REASONS.get(generation.end.status)
