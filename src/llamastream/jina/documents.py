"""A PromptDocument, whatever wire it came on, as the service's request.

Knows the names and types of the fields, and neither protobuf nor HTTP.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema

from llamastream.api.http.idempotency import make_key
from llamastream.api.wire.messages import parse_messages
from llamastream.api.wire.options import (
    MAX_STOP_CHARS,
    MAX_STOPS,
    SAMPLING_OPTIONS,
    NoLimit,
    asked,
    or_nothing,
    path_of,
)
from llamastream.api.wire.tools import ChatTools, read_tools
from llamastream.errors import InvalidRequest, quoted, requirement
from llamastream.records import IdempotencyKey
from llamastream.sampling import SamplingParams
from llamastream.tools import Tool
from llamastream.types import ChatRequest, GrammarKind, GrammarSpec, Message, PromptOptions

ENDPOINT = "/stream"
MAX_PROMPT_BYTES = 4 << 20  # of UTF-8; about a million tokens

_TOOLS: TypeAdapter[Sequence[Any]] = TypeAdapter(ChatTools)
_Model = TypeVar("_Model", bound=BaseModel)
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class _Turn(BaseModel):
    """Calls are JSON as text, as a chat has them: a document's messages hold texts alone."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None


class _Prompt(BaseModel):
    """The fields of a PromptDocument. Unknown ones are ignored, as docarray does."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    prompt: str | None = None
    messages: list[_Turn] | None = Field(default=None, min_length=1)
    max_tokens: Annotated[int | None, NoLimit]
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
    json_schema: str | None = None  # as text: a query string and a protobuf document can hold it
    tools: str | None = None  # the same: a list, as chats take it


class StoreOptions(BaseModel):
    """The fields of a PromptDocument that say whether its answer is stored, or resumed."""

    model_config = ConfigDict(strict=True)

    store: bool = False
    stream_id: str | None = None  # of the answer to go on with
    starting_after: int = Field(default=-1, ge=-1)  # the last sequence number that was seen


class PromptDocument(StoreOptions, _Prompt):
    """All that a document may say to us."""

    api_key: str | None = None

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        schema["properties"] = {k: or_nothing(v) for k, v in schema["properties"].items()}
        return schema


FIELDS = PromptDocument.model_fields.keys()


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A PromptDocument's fields and what came beside it; its methods raise InvalidRequest, naming
    the field. null, [] and {} count as absent."""

    fields: Mapping[str, object]
    scope: str = ""  # see ChatRequest
    idempotency_key: str | None = None
    label: str = ""  # see ChatRequest
    text: bool = False  # all values are texts (a query string), to be read as the field's type

    def store_options(self) -> StoreOptions:
        """An empty `stream_id`, with which DocArray fills one that is declared and not used, is
        none."""
        options = self._read(StoreOptions, stream_id=self.fields.get("stream_id") or None)
        if options.stream_id is None and options.starting_after >= 0:
            raise InvalidRequest("starting_after needs stream_id.", param="starting_after")
        return options

    def to_request(self) -> ChatRequest:
        """The request that the document makes."""
        prompt = self._read(_Prompt)
        if prompt.max_tokens == 0:  # an answer of documents has one at least
            raise InvalidRequest(
                f"max_tokens must be >= 1 and <= {2**31 - 1}. Given: 0.", param="max_tokens"
            )
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
            prompt_options=PromptOptions(tools=_tools(prompt)),
            grammar=_grammar(prompt.json_schema),
            scope=self.scope,
            label=self.label,
        )

    def key(self) -> IdempotencyKey | None:
        """The caller's, with a digest of all that `to_request` reads."""
        if self.idempotency_key is None:
            return None
        return make_key(self.idempotency_key, ENDPOINT, self._read(_Prompt).model_dump())

    def _read(self, model: type[_Model], **changes: object) -> _Model:
        fields = {**self.fields, **changes}
        try:
            return model.model_validate(asked(fields), strict=False if self.text else None)
        except ValidationError as error:
            raise invalid_field(error) from None


def check_not_stored(options: StoreOptions) -> None:
    """For a server without a store. Raises InvalidRequest unless nothing is to be stored."""
    if options.store or options.stream_id is not None:
        name = "store" if options.stream_id is None else "stream_id"
        raise InvalidRequest(f"{name}: nothing is stored by this server. Leave it out.", param=name)


def _conversation(prompt: _Prompt) -> tuple[Message, ...] | str:
    # DocArray fills a declared but unused prompt with "".
    if prompt.messages is not None and not prompt.prompt:
        turns = prompt.messages
        _check_size("messages", (t.content + (t.tool_calls or "") for t in turns))
        return tuple(message for k, turn in enumerate(turns) for message in _messages(turn, k))
    if prompt.messages is not None:
        raise InvalidRequest("prompt and messages exclude each other: give one.", param="messages")
    if prompt.prompt is None:
        raise InvalidRequest("prompt is missing: give prompt or messages.", param="prompt")
    _check_size("prompt", (prompt.prompt,))
    return prompt.prompt


def _messages(turn: _Turn, place: int) -> tuple[Message, ...]:
    if turn.role != "tool" and not turn.tool_calls:
        return (Message(turn.role, turn.content, turn.name),)
    said: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.role == "tool":
        said["tool_call_id"] = turn.tool_call_id
    else:
        said["tool_calls"] = _read_json(turn.tool_calls or "", f"messages[{place}].tool_calls")
    return parse_messages([said])


def _tools(prompt: _Prompt) -> tuple[Tool, ...]:
    """What cannot be enforced of them is refused, as of `json_schema`."""
    if not prompt.tools:
        return ()
    if prompt.messages is None:
        raise InvalidRequest(
            "tools need messages: a raw prompt has no place for them.", param="tools"
        )
    given = _read_json(prompt.tools, "tools")
    try:
        tools = read_tools(_TOOLS.validate_python(given, strict=True))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = path_of(("tools", *first["loc"]))
        raise InvalidRequest(f"{where} {requirement(first['msg'])}.", param="tools") from None
    return tuple(replace(tool, strict=True) for tool in tools)


def _read_json(text: str, param: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{param} must be JSON: {error}.", param=param) from None


def _grammar(schema: str | None) -> GrammarSpec | None:
    """DocArray fills a declared but unused schema with "". Documents have no place for warnings, so
    what cannot be enforced is refused."""
    if not schema:
        return None
    return GrammarSpec(GrammarKind.JSON_SCHEMA, schema, param="json_schema")


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
    given = quoted(first["input"])
    return InvalidRequest(f"{name} {requirement(first['msg'])}. Given: {given}.", param=param)
