"""The options that the endpoints share, checked by pydantic and named in errors.

A model's field is an option's name on the wire; None means the default. Ranges of sampling
parameters are checked once, by SamplingParams. An option of OpenAI's that is not implemented is
taken only with a value that means the same as leaving it out.

One rule for all objects of all bodies: null, [] and {} ask for nothing (`is_asked`), also where the
name is unknown.
"""

import difflib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema

from llamastream.errors import (
    MAX_PARAM_CHARS,
    InvalidRequest,
    cut,
    quoted,
    requirement,
)
from llamastream.records import CacheRetention
from llamastream.sampling import MAX_LOGPROBS, MAX_SEED, SamplingParams
from llamastream.types import PLAIN_PROMPT, ChatRequest, Prompt, PromptOptions, Thinking

MAX_CHOICES = 128  # n, OpenAI's limit
MAX_STOPS = 16
MAX_STOP_CHARS = 256  # what a matcher may have to hold back
MAX_STOP_TOKEN_IDS = 128
MAX_ALLOWED_TOKEN_IDS = 4096
MAX_LABEL_CHARS = 512  # user and safety_identifier

LOGPROBS = "message.output_text.logprobs"  # what `include` may name

SAMPLING_OPTIONS = {
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
}

NEWER = {"functions": "tools", "function_call": "tool_choice"}  # OpenAI's own
# What a response may be asked to show besides. Of these only LOGPROBS are in answers here: nobody
# reasons in secret, and no tool of the server's own is called.
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
]
INCLUDABLE: tuple[str, ...] = get_args(Includable)
NoLimit = BeforeValidator(
    lambda value: None if value == -1 else value,
    json_schema_input_type=Annotated[int, Field(ge=-1)] | None,
)
"""-1 tokens, as llama.cpp and Ollama write it, are as many as there is room for."""

Label = Annotated[str, Field(max_length=MAX_LABEL_CHARS)]
StopText = Annotated[str, Field(max_length=MAX_STOP_CHARS)]
MaxTokens = Annotated[Annotated[int, Field(ge=1, le=2**31 - 1)] | None, NoLimit]
Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]


def is_asked(value: Any) -> bool:
    """Whether a value says anything: null, [], {} and objects of such values do not."""
    if isinstance(value, dict):
        return any(map(is_asked, value.values()))
    return value is not None and value != []


def asked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say anything."""
    return {name: value for name, value in fields.items() if is_asked(value)}


MODEL_NAME = {"type": "string", "format": "name of the model"}
ModelName = Annotated[str, WithJsonSchema(MODEL_NAME)]
NOTHING = {"$ref": "#/components/schemas/Nothing"}
NOTHING_SCHEMA: dict[str, Any] = {
    "description": "Asks for nothing, whatever its name.",
    "anyOf": [
        {"type": "null"},
        {"type": "array", "maxItems": 0},
        {"type": "object", "additionalProperties": NOTHING},
    ],
}


def or_nothing(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an option that may be left out, for the OpenAPI document."""
    return {"anyOf": [schema, NOTHING]}


class WireModel(BaseModel):
    """No conversion between types, no unknown options."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)
    UNSUPPORTED: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Options of OpenAI's that we do not implement -> the values that ask for nothing beside null,
    [] and {}. The first that asks is named in the error: causes stand before what needs them."""

    @model_validator(mode="before")
    @classmethod
    def _asked(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        required = {name for name, field in cls.model_fields.items() if field.is_required()}
        return {name: part for name, part in value.items() if name in required or is_asked(part)}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """With what the rule of nothing adds, and the options that are not implemented."""
        schema = handler.resolve_ref_schema(handler(core))
        required = schema.get("required", ())
        options = schema["properties"] | {
            name: {"enum": list(values)} for name, values in cls.UNSUPPORTED.items()
        }
        schema["properties"] = {
            name: found if name in required else or_nothing(found)
            for name, found in options.items()
        }
        schema["additionalProperties"] = NOTHING
        return schema


Model = TypeVar("Model", bound=WireModel)


class ChangedMetadata(WireModel):
    metadata: Metadata | None


class StreamOptions(WireModel):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None  # vLLM's


def stop_list(value: Any) -> Any:
    """One string or several; an empty one stops nothing."""
    value = [value] if isinstance(value, str) else value
    return [text for text in value if text != ""] if isinstance(value, list) else value


def _token_biases(value: Any) -> Any:
    """JSON's keys are strings: token ids in decimal."""
    if not isinstance(value, dict):
        return value
    for key in value:
        if not (key.isascii() and key.isdecimal() and str(int(key[:20])) == key):
            raise ValueError(f"must have token ids as keys. Given: {quoted(key)}")
    return {int(key): bias for key, bias in value.items()}


Effort = Literal["none"]
"""Of reasoning: a model can be told not to. It cannot be told how much."""


def thinking_of(effort: Effort | None, param: str) -> Thinking | None:
    return None if effort is None else Thinking(is_on=False, param=param)


class TemplateOptions(WireModel):
    """How a conversation becomes a prompt, named as in vLLM."""

    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def prompt_options(self, thinking: Thinking | None = None) -> PromptOptions:
        """Raises InvalidRequest."""
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequest(
                "add_generation_prompt and continue_final_message exclude each other: send one.",
                param="continue_final_message",
            )
        return PromptOptions(
            self.chat_template_kwargs or {},
            add_generation_prompt=self.add_generation_prompt is not False,
            continues=bool(self.continue_final_message),
            thinking=thinking,
        )


class AnswerOptions(WireModel):
    """What all formats share."""

    model: ModelName
    stream: bool | None = None

    @property
    def is_stored(self) -> bool:
        return False


class SamplingOptions(AnswerOptions):
    """What all endpoints take. `user` and `safety_identifier` are labels without any effect."""

    seed: Annotated[int, Field(ge=-(2**63), le=MAX_SEED)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None  # a hint; the prefix cache needs none
    prompt_cache_retention: CacheRetention | None = None  # on disk; of what is stored
    # Beyond OpenAI's, named as in vLLM.
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    allowed_token_ids: Annotated[list[int], Field(max_length=MAX_ALLOWED_TOKEN_IDS)] | None = None
    return_token_ids: bool | None = None
    truncation: Literal["disabled", "auto"] | None = None

    def sampling(
        self,
        defaults: SamplingParams,
        max_tokens: int | None,
        logprobs: int | None,
        biases: dict[int, float] | None = None,
    ) -> SamplingParams:
        """The sampling parameters. Raises InvalidRequest for a value out of range."""
        given = self.model_dump(include=SAMPLING_OPTIONS, exclude_none=True)
        if "top_k" in given:
            given["top_k"] = max(given["top_k"], 0)  # -1 is off, like 0
        if "seed" in given:
            given["seed"] &= MAX_SEED  # OpenAI's are signed
        return replace(
            defaults,
            max_tokens=max_tokens,
            logit_bias=tuple((biases or {}).items()),
            logprobs=logprobs,
            stop_token_ids=frozenset(self.stop_token_ids or ()),
            min_tokens=self.min_tokens or 0,
            allowed_token_ids=_sorted_ids(self.allowed_token_ids),
            **given,
        )


def _sorted_ids(ids: list[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(sorted(set(ids)))


class GenerationOptions(SamplingOptions):
    """What chat and text completions take."""

    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]],
            Field(max_length=MAX_STOPS),
            BeforeValidator(stop_list, json_schema_input_type=StopText | list[StopText]),
        ]
        | None
    ) = None
    max_tokens: MaxTokens = None
    logit_bias: Annotated[dict[int, float], BeforeValidator(_token_biases)] | None = None
    include_stop_str_in_output: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    @abstractmethod
    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """The checked request; `defaults` are the model's. Raises InvalidRequest."""

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def build(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        options: PromptOptions = PLAIN_PROMPT,
        *,
        scope: str,
        label: str,
    ) -> ChatRequest:
        """Raises InvalidRequest."""
        if self.include_usage and not self.stream:
            raise InvalidRequest(
                "stream_options is allowed only with `stream: true`.", param="stream_options"
            )
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest(
                "prompt_logprobs are not streamed: leave out `stream`.", param="prompt_logprobs"
            )
        return ChatRequest(
            prompt=prompt,
            sampling=sampling,
            n=self.n or 1,
            stop=tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            include_stop=bool(self.include_stop_str_in_output),
            skip_special_tokens=self.skip_special_tokens is not False,
            truncation=self.truncation or "disabled",
            max_prompt_tokens=self._max_prompt_tokens(),
            prompt_options=options,
            prompt_logprobs=self.prompt_logprobs,
            scope=scope,
            label=label,
        )

    def _max_prompt_tokens(self) -> int | None:
        given = self.truncate_prompt_tokens
        if given == 0:
            raise InvalidRequest(
                "truncate_prompt_tokens must be >= 1, or -1 for as many as there is room for. "
                "Given: 0.",
                param="truncate_prompt_tokens",
            )
        if given is not None and self.truncation == "auto":
            raise InvalidRequest(
                "truncate_prompt_tokens cuts tokens off, truncation: auto drops turns. Send one of "
                "them.",
                param="truncate_prompt_tokens",
            )
        return given


def way_out(name: str, newer: Mapping[str, str] = NEWER) -> str:
    """What to do instead of sending a field that is not supported."""
    return f"Send {newer[name]}, which took its place" if name in newer else "Leave it out"


def validate(model: type[Model], body: dict[str, Any]) -> Model:
    """`body` as a `model`. Raises InvalidRequest that names field, limit and value."""
    for name, harmless in model.UNSUPPORTED.items():
        value = body.get(name)
        value = asked(value) if isinstance(value, dict) else value
        if is_asked(value) and not any(_same(value, default) for default in harmless):
            raise InvalidRequest(f"{name} is not supported. {way_out(name)}.", param=name)
    try:
        return model.model_validate({k: v for k, v in body.items() if k not in model.UNSUPPORTED})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    path = path_of(first["loc"])
    if first["type"] == "extra_forbidden":
        raise unknown_option(path, model.model_fields)
    if first["type"] == "missing":
        raise InvalidRequest(f"{cut(path, MAX_PARAM_CHARS)} is required.", param=path)
    problem = requirement(first["msg"])
    given = "" if "Given" in problem else f" Given: {quoted(first['input'])}."
    raise InvalidRequest(f"{cut(path, MAX_PARAM_CHARS)} {problem}.{given}", param=path)


def unknown_option(name: str, known: Iterable[str]) -> InvalidRequest:
    """The error for an option that is neither ours nor OpenAI's."""
    near = difflib.get_close_matches(name[:50], list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InvalidRequest(f"Unknown option: {quoted(name)}.{hint}", param=name)


def path_of(loc: tuple[int | str, ...]) -> str:
    """pydantic's place of a value, as errors name it."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default  # 1 is not True here
