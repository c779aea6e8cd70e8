"""Tools, choices among them, calls and results on the wire of both of OpenAI's interfaces.

Chats put what is said of a function into an object of its own, responses beside the type.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from llamastream.api.wire.options import WireModel, asked
from llamastream.errors import InvalidRequest, quoted
from llamastream.tools import NO_PARAMETERS, InputSyntax, Tool, ToolChoice, name_in
from llamastream.types import ToolCall

Json = dict[str, Any]
MAX_TOOLS = 128
MAX_CALLS = 128  # of one message
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Description = Annotated[str, Field(max_length=2**16)]


class LarkGrammar(WireModel):
    syntax: Literal["lark", "regex"]
    definition: str


class InputFormat(WireModel):
    """Of a text: chats have the grammar in an object of its own."""

    type: Literal["text", "grammar"]
    grammar: LarkGrammar | None = None
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None

    def read(self, param: str) -> tuple[InputSyntax, str]:
        """Raises InvalidRequest."""
        syntax, definition = self.syntax, self.definition
        if self.grammar is not None:
            syntax, definition = self.grammar.syntax, self.grammar.definition
        if self.type == "text":
            return "text", ""
        if syntax is None or definition is None:
            raise InvalidRequest(f"{param}.grammar is required.", param=f"{param}.grammar")
        return syntax, definition


class Function(WireModel):
    name: Name
    description: Description | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def tool(self, param: str) -> Tool:
        parameters = f"{param}.parameters"
        return Tool(
            self.name,
            self.description,
            NO_PARAMETERS if self.parameters is None else schema_text(self.parameters, parameters),
            strict=bool(self.strict),
            param=parameters,
        )


class Custom(WireModel):
    name: Name
    description: Description | None = None
    format: InputFormat | None = None

    def tool(self, param: str) -> Tool:
        """Raises InvalidRequest."""
        where = f"{param}.format"
        given = InputFormat(type="text") if self.format is None else self.format
        syntax, definition = given.read(where)
        return Tool(
            self.name, self.description, input_syntax=syntax, definition=definition, param=where
        )


class ChatTool(WireModel):
    type: Literal["function", "custom"]
    function: Function | None = None
    custom: Custom | None = None
    cache_control: Any = None  # a hint: the prefix cache needs none

    def tool(self, param: str) -> Tool:
        """Raises InvalidRequest."""
        found = self.function if self.type == "function" else self.custom
        if found is None:
            raise InvalidRequest(f"{param}.{self.type} is required.", param=f"{param}.{self.type}")
        return found.tool(f"{param}.{self.type}")


ChatTools = Annotated[list[ChatTool], Field(max_length=MAX_TOOLS)]


class ResponseFunction(Function):
    type: Literal["function"]

    def shown(self) -> Json:
        return {
            "type": self.type,
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": bool(self.strict),
        }


class ResponseCustom(Custom):
    type: Literal["custom"]

    def shown(self) -> Json:
        said = self.format
        if said is None or said.type == "text":
            format: Json = {"type": "text"}
        else:
            format = {"type": "grammar", "syntax": said.syntax, "definition": said.definition}
        return {
            "type": self.type,
            "name": self.name,
            "description": self.description,
            "format": format,
        }


ResponseTool = Annotated[ResponseFunction | ResponseCustom, Field(discriminator="type")]


class ResponseNamespace(WireModel):
    """Tools of one origin, which are called by its name and theirs."""

    type: Literal["namespace"]
    name: Name
    description: Description | None = None
    tools: Annotated[list[ResponseTool], Field(min_length=1, max_length=MAX_TOOLS)]

    def inside(self, param: str) -> Iterator[Tool]:
        """The first one's description says what the namespace is. Raises InvalidRequest."""
        said = self.description
        for k, one in enumerate(self.tools):
            tool = one.tool(f"{param}.tools[{k}]")
            described = "\n\n".join(filter(None, (said, tool.description))) or None
            yield replace(tool, name=name_in(self.name, tool.name), description=described)
            said = None

    def shown(self) -> Json:
        tools = [tool.shown() for tool in self.tools]
        return {
            "type": self.type,
            "name": self.name,
            "description": self.description,
            "tools": tools,
        }


ResponseTools = Annotated[
    list[
        Annotated[
            ResponseFunction | ResponseCustom | ResponseNamespace, Field(discriminator="type")
        ]
    ],
    Field(max_length=MAX_TOOLS),
]


def check_tool_kinds(given: Any) -> None:
    """Raises InvalidRequest for tools that a server would run itself."""
    for k, tool in enumerate(given if isinstance(given, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in ("function", "custom", "namespace"):
            raise InvalidRequest(
                f"tools[{k}].type must be function, custom or namespace: this server runs no tools "
                f"of its own. Given: {'nothing' if kind is None else quoted(kind)}.",
                param=f"tools[{k}].type",
            )


def read_tools(
    given: Sequence[ChatTool | Function | Custom | ResponseNamespace] | None,
) -> tuple[Tool, ...]:
    """Raises InvalidRequest."""
    tools: list[Tool] = []
    for k, one in enumerate(given or ()):
        where = f"tools[{k}]"
        tools += one.inside(where) if isinstance(one, ResponseNamespace) else [one.tool(where)]
    return unique(tools)


def unique(given: Iterable[Tool]) -> tuple[Tool, ...]:
    """Raises InvalidRequest for two of one name, and for too many."""
    tools = tuple(given)
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(
            f"tools must hold <= {MAX_TOOLS} tools. Given: {len(tools)}.", param="tools"
        )
    seen: set[str] = set()
    for tool in tools:
        if tool.name in seen:
            where = tool.param.rpartition(".")[0]
            raise InvalidRequest(
                f"{where} must have a name of its own. Given twice: {quoted(tool.name)}.",
                param=f"{where}.name",
            )
        seen.add(tool.name)
    return tools


def read_choice(given: Any, tools: Sequence[Tool], parallel: bool | None) -> ToolChoice | None:
    """None: no tool may be called. Raises InvalidRequest."""
    names = tuple(tool.name for tool in tools)
    if given in (None, "auto", "none", "required") and (names or given != "required"):
        if given == "none" or not names:
            return None
        return ToolChoice(given == "required", None, parallel)
    if not names:
        raise InvalidRequest(
            "tool_choice needs tools. Send tools, or leave it out.", param="tool_choice"
        )
    choice = asked(given) if isinstance(given, dict) else {}
    kind = choice.get("type")
    if kind in ("function", "custom"):
        return ToolChoice(True, (_known(choice, names),), False)
    if kind == "allowed_tools":
        return _allowed(_details(choice), names, parallel)
    raise InvalidRequest(
        "tool_choice must be none, auto, required, or an object that names a function, a custom "
        f"tool or allowed_tools. Given: {quoted(given)}.",
        param="tool_choice",
    )


def _allowed(details: Json, names: tuple[str, ...], parallel: bool | None) -> ToolChoice:
    mode, listed = details.get("mode", "auto"), details.get("tools")
    if mode not in ("auto", "required"):
        raise InvalidRequest(
            f"tool_choice.mode must be auto or required. Given: {quoted(mode)}.",
            param="tool_choice.mode",
        )
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise InvalidRequest(
            "tool_choice.tools must be a list of tools to choose from.", param="tool_choice.tools"
        )
    chosen = {_known(one, names) for one in listed}
    allowed = tuple(name for name in names if name in chosen)
    return ToolChoice(mode == "required", allowed, parallel)


def _details(choice: Json) -> Json:
    """What is said of its type: chats have it in an object of its own."""
    kind = choice.get("type")
    inner = choice.get(kind) if isinstance(kind, str) else None
    return inner if isinstance(inner, dict) else choice


def _known(choice: Json, names: tuple[str, ...]) -> str:
    details = _details(choice)
    name, namespace = details.get("name"), details.get("namespace")
    if isinstance(name, str) and isinstance(namespace, str):
        name = name_in(namespace, name)
    if not isinstance(name, str) or name not in names:
        raise InvalidRequest(
            f"tool_choice must name one of the tools. Given: {quoted(name)}.", param="tool_choice"
        )
    return name


def read_calls(raw: Any, where: str) -> tuple[ToolCall, ...]:
    """The calls of a chat's message. Raises InvalidRequest."""
    if not isinstance(raw, list) or len(raw) > MAX_CALLS:
        raise InvalidRequest(
            f"{where} must be a list of <= {MAX_CALLS} calls. Given: "
            f"{len(raw) if isinstance(raw, list) else type(raw).__name__}.",
            param=where,
        )
    return tuple(_read_call(one, f"{where}[{k}]") for k, one in enumerate(raw))


def _read_call(raw: Any, where: str) -> ToolCall:
    kind = raw.get("type", "function") if isinstance(raw, dict) else None
    if kind not in ("function", "custom"):
        raise InvalidRequest(
            f"{where} must be a call with type function or custom. Given: {quoted(kind)}.",
            param=f"{where}.type",
        )
    said = raw.get(kind)
    if not isinstance(said, dict):
        raise InvalidRequest(f"{where}.{kind} is required.", param=f"{where}.{kind}")
    field = "arguments" if kind == "function" else "input"
    name = text_field(said, "name", f"{where}.{kind}")
    arguments = text_field({field: ""} | said, field, f"{where}.{kind}")
    return ToolCall(text_field(raw, "id", where), name, arguments, kind)


def text_field(raw: Json, name: str, where: str) -> str:
    """Raises InvalidRequest."""
    value = raw.get(name)
    if not isinstance(value, str):
        given = "nothing" if value is None else type(value).__name__
        raise InvalidRequest(
            f"{where}.{name} must be a string. Given: {given}.", param=f"{where}.{name}"
        )
    return value


def chat_call(call: ToolCall) -> Json:
    """As chats write it; of its beginning, without the rest of the arguments."""
    if call.kind == "custom":
        said: Json = {"name": call.name, "input": call.arguments}
    else:
        said = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": call.kind, call.kind: said}


def chat_piece(call: ToolCall) -> Json:
    """More arguments of a call that was begun."""
    field = "input" if call.kind == "custom" else "arguments"
    return {call.kind: {field: call.arguments}}


def schema_text(schema: Json, param: str) -> str:
    try:
        return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        raise InvalidRequest(f"{param} is nested too deeply.", param=param) from None
