"""An answer as ModelOutputDocuments. A delta without text makes none: a reader gets one document
per token that brings text."""

from collections.abc import AsyncIterator
from uuid import uuid4

from llamastream.errors import InternalError
from llamastream.generation.response_log import FINISH_REASONS, Reader
from llamastream.generation.stream import Stream
from llamastream.types import Delta, FinishReason, Usage

PREFIX = "stream_"  # of the ids of stored answers

OutputFields = dict[str, str | int | float]
"""The fields of one ModelOutputDocument; those without a value are absent."""


class Answer:
    """Reads a stream as documents, those that are ready at the same time together.

    A document's id is unique and its last 8 digits are its sequence number, so that ids of one
    answer share their beginning. The caller closes the stream.
    """

    def __init__(self, stream: Stream) -> None:
        self.finish_reason: FinishReason | None = None
        self._stream = stream
        self._prefix = uuid4().hex[:24]
        self._token_id = -1

    def usage(self) -> Usage:
        """Token counts, once the stream is exhausted."""
        return self._stream.usage()

    async def __aiter__(self) -> AsyncIterator[list[OutputFields]]:
        """Never yields an empty list. Raises the stream's ChatError at its place."""
        while not self._stream.exhausted:
            documents = self._documents(await self._stream.read())
            if documents:
                yield documents

    def _documents(self, deltas: list[Delta]) -> list[OutputFields]:
        """A finish reason without text of its own (the service ends an answer by a delta without
        tokens) goes with the document before it, unless that was sent already."""
        documents: list[OutputFields] = []
        for delta in deltas:
            if delta.token_ids:
                self._token_id = delta.token_ids[-1]
            if delta.text:
                documents.append(output_document(self._prefix, delta, self._token_id))
            if delta.finish_reason is not None:
                self.finish_reason = delta.finish_reason
                if documents:
                    documents[-1]["finish_reason"] = delta.finish_reason.value
        return documents


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


def output_document(prefix: str, delta: Delta, token_id: int) -> OutputFields:
    """`prefix`: 24 hexadecimal digits that the documents of one answer share."""
    document: OutputFields = {
        "id": f"{prefix}{delta.sequence_number & 0xFFFFFFFF:08x}",
        "token_id": token_id,
        "generated_text": delta.text,
        "sequence_number": delta.sequence_number,
    }
    if delta.logprobs:
        document["logprob"] = delta.logprobs[-1].logprob
    return document
