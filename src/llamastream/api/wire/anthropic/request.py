"""The body of POST /v1/messages, checked and turned into what the service takes."""

import uuid
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from llamastream.api.wire.anthropic.blocks import (
    MESSAGES_SCHEMA,
    SYSTEM_SCHEMA,
    parse_system,
    parse_turns,
)
from llamastream.api.wire.anthropic.events import MessageFormat
from llamastream.api.wire.format import START, Caller, Endpoint, Format
from llamastream.api.wire.options import (
    MAX_STOP_CHARS,
    MAX_STOPS,
    AnswerOptions,
    Label,
    WireModel,
    validate,
)
from llamastream.api.wire.tools import MAX_TOOLS, Description, Name, schema_text, unique
from llamastream.errors import InvalidRequest, quoted
from llamastream.generation import Generation, NewAnswer
from llamastream.sampling import MAX_SEED, SamplingParams
from llamastream.tools import AUTO, Tool, ToolChoice
from llamastream.types import (
    ChatRequest,
    GrammarKind,
    GrammarSpec,
    Message,
    PromptOptions,
    Thinking,
)

PREFIX = "msg_"
MIN_BUDGET = 1024  # Anthropic's, of thinking


class RequestMetadata(WireModel):
    """A label without any effect."""

    user_id: Label | None = None


class ThinkingOptions(WireModel):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=MIN_BUDGET)] | None = None
    display: Literal["summarized"] | None = None

    def asked(self, max_tokens: int | None) -> Thinking:
        """Raises InvalidRequest."""
        name, budget = "thinking.budget_tokens", self.budget_tokens
        if self.type != "enabled":
            if budget is not None:
                raise InvalidRequest(f"{name} needs `type: enabled`.", param=name)
            is_on = self.type == "adaptive"
            return Thinking(is_on=is_on, param="" if is_on else "thinking")
        if budget is None:
            raise InvalidRequest(f"{name} is required with `type: enabled`.", param=name)
        if max_tokens is not None and budget >= max_tokens:
            raise InvalidRequest(
                f"{name} must be less than max_tokens ({max_tokens}). Given: {budget}.", param=name
            )
        return Thinking(is_on=True, param="thinking")


class ToolParam(WireModel):
    """One that the client runs. Its input is always streamed as it comes."""

    name: Name
    type: Literal["custom"] | None = None
    description: Description | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    cache_control: Any = None
    eager_input_streaming: bool | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: list[Literal["direct"]] | None = None

    def tool(self, where: str) -> Tool:
        """Raises InvalidRequest."""
        param = f"{where}.input_schema"
        schema = schema_text(self.input_schema, param)
        return Tool(self.name, self.description, schema, strict=bool(self.strict), param=param)


def _client_tools(given: Any) -> Any:
    """Raises ValueError for one that Anthropic's servers run or know."""
    for k, tool in enumerate(given if isinstance(given, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in (None, "custom"):
            raise ValueError(
                f"must hold tools with an input_schema, which the client runs. Given: "
                f"tools[{k}].type {quoted(kind)}"
            )
    return given


class ToolChoiceOptions(WireModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    def choice(self, names: tuple[str, ...]) -> ToolChoice | None:
        """None: no tool may be called. Raises InvalidRequest."""
        is_one = self.disable_parallel_tool_use or self.type == "tool"
        parallel = False if is_one else None
        if (self.name is None) == (self.type == "tool"):
            raise InvalidRequest(
                "tool_choice.name goes with `type: tool` alone, and with that it is required.",
                param="tool_choice.name",
            )
        if self.type == "none" or (self.type == "auto" and not names):
            return None
        if not names or (self.name is not None and self.name not in names):
            given = f" Given: {quoted(self.name)}" if self.name else ""
            raise InvalidRequest(
                f"tool_choice must be of the tools that are given.{given}", param="tool_choice"
            )
        chosen = None if self.name is None else (self.name,)
        return ToolChoice(self.type in ("any", "tool"), chosen, parallel)


class OutputFormat(WireModel):
    type: Literal["json_schema"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class OutputConfig(WireModel):
    """An effort that is not the usual one is refused: a model cannot be told how much."""

    effort: Literal["high"] | None = None
    format: OutputFormat | None = None


class PromptBody(AnswerOptions):
    """What makes a prompt: the body of /v1/messages/count_tokens."""

    UNSUPPORTED = {
        "billing_policy": (),
        "compaction": (),
        "container": (),
        # What keeps all that was thought asks for nothing.
        "context_management": ({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},),
        "inference_geo": (),
        "mcp_servers": (),
        "speed": ("standard",),
        "thread": (),
        "user_profile_id": (),
        "workspace_id": (),
    }

    messages: Annotated[list[Any], Field(min_length=1), WithJsonSchema(MESSAGES_SCHEMA)]
    system: Annotated[Any, WithJsonSchema(SYSTEM_SCHEMA)] = None
    tools: (
        Annotated[list[ToolParam], Field(max_length=MAX_TOOLS), BeforeValidator(_client_tools)]
        | None
    ) = None
    tool_choice: ToolChoiceOptions | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None  # a hint; the prefix cache needs none

    def turns(self) -> tuple[Message, ...]:
        """Raises InvalidRequest."""
        system = () if self.system is None else parse_system(self.system)
        return system + parse_turns(self.messages)

    def prompt_options(
        self, turns: tuple[Message, ...], max_tokens: int | None = None
    ) -> PromptOptions:
        """Where nobody speaks of thinking, a model that can do without does so, as Anthropic's."""
        given = self.thinking
        thinking = Thinking(is_on=False) if given is None else given.asked(max_tokens)
        continues = turns[-1].role == "assistant"
        if continues and given is not None and given.type == "enabled":
            raise InvalidRequest(
                "messages: the final message must not be the assistant's when thinking is enabled.",
                param="messages",
            )
        offered = self.offered() if self.choice() else ()
        return PromptOptions(thinking=thinking, continues=continues, tools=offered)

    def offered(self) -> tuple[Tool, ...]:
        """Raises InvalidRequest."""
        return unique(one.tool(f"tools[{k}]") for k, one in enumerate(self.tools or ()))

    def choice(self) -> ToolChoice | None:
        """None: no tool may be called. Raises InvalidRequest."""
        names = tuple(tool.name for tool in self.tools or ())
        if self.tool_choice is None:
            return AUTO if names else None
        return self.tool_choice.choice(names)

    def grammar(self) -> GrammarSpec | None:
        given = None if self.output_config is None else self.output_config.format
        if given is None:
            return None
        param = "output_config.format"
        if given.schema_ is None:
            raise InvalidRequest(f"{param}.schema is required.", param=f"{param}.schema")
        return GrammarSpec(GrammarKind.JSON_SCHEMA, schema_text(given.schema_, param), param=param)


class MessagesBody(PromptBody):
    UNSUPPORTED = PromptBody.UNSUPPORTED | {
        "diagnostics": (),
        "fallback_credit_token": (),
        "fallbacks": (),
        "service_tier": ("auto", "standard_only"),
    }

    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)]  # 0: the prompt is read alone
    stop_sequences: (
        Annotated[
            list[Annotated[str, Field(pattern=r"\S", max_length=MAX_STOP_CHARS)]],
            Field(max_length=MAX_STOPS),
        ]
        | None
    ) = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    metadata: RequestMetadata | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None  # beyond Anthropic's

    def to_request(self, defaults: SamplingParams, scope: str, label: str) -> ChatRequest:
        """Raises InvalidRequest."""
        turns = self.turns()
        names = {"temperature", "top_p", "top_k", "seed"}
        given = self.model_dump(include=names, exclude_none=True)
        return ChatRequest(
            prompt=turns,
            sampling=replace(defaults, max_tokens=self.max_tokens, **given),
            cuts_max_tokens=True,
            stop=tuple(self.stop_sequences or ()),
            prompt_options=self.prompt_options(turns, self.max_tokens),
            grammar=self.grammar(),
            tool_choice=self.choice() or AUTO,
            thinking_budget=None if self.thinking is None else self.thinking.budget_tokens,
            scope=scope,
            label=label,
        )


class MessagesEndpoint(Endpoint[MessagesBody]):
    def parse(self, raw: dict[str, Any]) -> MessagesBody:
        return validate(MessagesBody, raw)

    async def plan(
        self, body: MessagesBody, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        request = body.to_request(defaults, caller.scope, caller.label)
        wire = {"model": body.model, "max_tokens": body.max_tokens}
        return request, NewAnswer(PREFIX + uuid.uuid4().hex, wire)

    def format(self, generation: Generation, after: int = START) -> Format:
        return MessageFormat(generation)


class CountEndpoint(Endpoint[PromptBody]):
    """How long a prompt is."""

    def parse(self, raw: dict[str, Any]) -> PromptBody:
        return validate(PromptBody, raw)

    async def plan(
        self, body: PromptBody, caller: Caller, defaults: SamplingParams
    ) -> tuple[ChatRequest, NewAnswer]:
        turns = body.turns()
        options = body.prompt_options(turns)
        sampling = replace(defaults, max_tokens=0)  # what fits is all that is counted
        request = ChatRequest(
            turns, sampling, prompt_options=options, scope=caller.scope, label=caller.label
        )
        return request, NewAnswer(PREFIX)

    def format(self, generation: Generation, after: int = START) -> Format:
        raise NotImplementedError  # nothing is generated
