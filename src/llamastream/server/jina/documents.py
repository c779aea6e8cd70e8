"""DocArray documents as the service's requests and deltas, whatever wire they came on.

Knows the names and types of the fields, and neither protobuf nor HTTP. A delta without text makes
no document: a reader gets one document per token that brings text.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Literal, TypeVar
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llamastream.errors import InvalidRequest
from llamastream.messages import ChatRequest, Delta, FinishReason, Message, Usage
from llamastream.sampling import SamplingParams
from llamastream.server.options import MAX_STOP_CHARS, MAX_STOPS, SAMPLING_OPTIONS
from llamastream.service.stream import Stream

ENDPOINT = "/stream"
MAX_PROMPT_BYTES = 4 << 20  # of UTF-8; about a million tokens
MAX_SHOWN_CHARS = 64  # of a bad value, in an error message

OutputFields = dict[str, str | int | float]
"""The fields of one ModelOutputDocument; those without a value are absent."""

_Model = TypeVar("_Model", bound=BaseModel)
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class _Turn(BaseModel):
    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class _Prompt(BaseModel):
    """The fields of a PromptDocument. Unknown ones are ignored, as docarray does."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    prompt: str | None = None
    messages: list[_Turn] | None = Field(default=None, min_length=1)
    max_tokens: int
    temperature: float = 0.0  # greedy: the article's documents carry no sampling
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: list[Stop] = Field(default=[], max_length=MAX_STOPS)
    ignore_eos: bool = False
    truncation: Literal["disabled", "auto"] = "disabled"
    logprobs: bool = False


class Keeping(BaseModel):
    """The fields of a PromptDocument that say whether its answer is stored, or resumed."""

    model_config = ConfigDict(strict=True)

    store: bool = False
    stream_id: str | None = None  # of the answer to go on with
    starting_after: int = Field(default=-1, ge=-1)  # the last sequence number that was seen


def authorization(header: str | None, fields: Mapping[str, object]) -> str | None:
    """The header, or in its place what it would be with the API key in the document: the stock
    client can send a key in no other way."""
    key = fields.get("api_key")
    if header is not None or key is None:
        return header
    if not isinstance(key, str):
        raise InvalidRequest("api_key must be a string.", param="api_key")
    return f"Bearer {key}"


def parse_prompt(
    fields: Mapping[str, object], *, scope: str, label: str, text: bool = False
) -> ChatRequest:
    """The request that a PromptDocument makes. Raises InvalidRequest, naming the field.

    `scope` and `label`: see ChatRequest. A field that is None counts as absent. `text`: all values
    are texts (a query string), and are read as the field's type.
    """
    prompt = _validated(_Prompt, fields, text)
    return ChatRequest(
        prompt=_conversation(prompt),
        sampling=SamplingParams(
            max_tokens=prompt.max_tokens,
            logprobs=0 if prompt.logprobs else None,
            **prompt.model_dump(include=SAMPLING_OPTIONS),
        ),
        stop=tuple(prompt.stop),
        ignore_eos=prompt.ignore_eos,
        truncation=prompt.truncation,
        scope=scope,
        label=label,
    )


def prompt_json(fields: Mapping[str, object], *, text: bool = False) -> dict[str, object]:
    """All that `parse_prompt` reads of a document, absent fields with their defaults."""
    return _validated(_Prompt, fields, text).model_dump()


def parse_keeping(fields: Mapping[str, object], *, text: bool = False) -> Keeping:
    """Raises InvalidRequest, naming the field. An empty `stream_id`, with which DocArray fills one
    that is declared and not used, is none."""
    keeping = _validated(Keeping, {**fields, "stream_id": fields.get("stream_id") or None}, text)
    if keeping.stream_id is None and keeping.starting_after >= 0:
        raise InvalidRequest("starting_after needs stream_id.", param="starting_after")
    return keeping


def check_not_kept(keeping: Keeping) -> None:
    """For a server without a store. Raises InvalidRequest unless nothing is to be stored."""
    if keeping.store or keeping.stream_id is not None:
        name = "store" if keeping.stream_id is None else "stream_id"
        raise InvalidRequest(f"{name}: nothing is stored by this server. Leave it out.", param=name)


def _validated(model: type[_Model], fields: Mapping[str, object], text: bool) -> _Model:
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return model.model_validate(given, strict=False if text else None)
    except ValidationError as error:
        raise invalid_field(error) from None


def _conversation(prompt: _Prompt) -> tuple[Message, ...] | str:
    # DocArray fills a declared but unused prompt with "".
    if prompt.messages is not None and not prompt.prompt:
        _check_size("messages", (turn.content for turn in prompt.messages))
        return tuple(Message(turn.role, turn.content) for turn in prompt.messages)
    if prompt.messages is not None:
        raise InvalidRequest("prompt and messages exclude each other: give one.", param="messages")
    if prompt.prompt is None:
        raise InvalidRequest("prompt is missing: give prompt or messages.", param="prompt")
    _check_size("prompt", (prompt.prompt,))
    return prompt.prompt


def _check_size(name: str, texts: Iterable[str]) -> None:
    try:
        size = sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as error:  # lone surrogates, which JSON can express
        raise InvalidRequest(f"{name} must be valid Unicode: {error.reason}.", param=name) from None
    if size > MAX_PROMPT_BYTES:
        raise InvalidRequest(
            f"{name} must be <= {MAX_PROMPT_BYTES} bytes. Given: {size}.", param=name
        )


def invalid_field(error: ValidationError) -> InvalidRequest:
    """The first of a document's errors, naming the field and a short form of its value."""
    first = error.errors(include_url=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    name = ".".join(str(part) for part in first["loc"]) or "document"
    if first["type"] == "missing":
        return InvalidRequest(f"{name} is missing.", param=param)
    given = repr(first["input"])
    if len(given) > MAX_SHOWN_CHARS:
        given = given[:MAX_SHOWN_CHARS] + "..."
    return InvalidRequest(f"{name}: {first['msg']}. Given: {given}.", param=param)


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
