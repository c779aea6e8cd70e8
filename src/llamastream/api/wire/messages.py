"""Messages of text on the wire, in both of OpenAI's interfaces: those of a chat, and the items of
conversations and responses."""

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from llamastream.api.wire.options import NOTHING, asked, or_nothing, way_out
from llamastream.api.wire.tools import read_calls, text_field
from llamastream.errors import InvalidRequest, quoted
from llamastream.generation.items import new_item
from llamastream.records import Item
from llamastream.tools import name_in
from llamastream.types import CallKind, Message, Part, Reasoning, Role, ToolCall, ToolResult

Json = dict[str, Any]

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it
    "user": "user",
    "assistant": "assistant",
}
# `cache_control` is taken and changes nothing: it asks for what the prefix cache does anyway.
REASONING = ("reasoning_content", "reasoning")  # DeepSeek's name, and vLLM's
HINTS = ("cache_control", *REASONING)
MESSAGE_FIELDS = {"role", "content", "name", *HINTS}
ASSISTANT_FIELDS = {*MESSAGE_FIELDS, "tool_calls"}
RESULT_FIELDS = {*MESSAGE_FIELDS, "tool_call_id"}
ITEM_FIELDS = {"type", "id", "status", "phase", *MESSAGE_FIELDS}
PART_FIELDS = {"type", "text", "annotations", "logprobs", "cache_control"}
PART_TYPES = ("text", "input_text", "output_text")
NEWER = {"function_call": "tool_calls"}
MAX_NAME_CHARS = 256
# Items that are no messages: calls, with the field of their arguments, and results.
CALL_FIELDS = {"type", "id", "status", "call_id", "name", "namespace"}
CALL_ITEMS = {"function_call": "arguments", "custom_tool_call": "input"}
RESULT_ITEMS: dict[str, CallKind] = {
    "function_call_output": "function",
    "custom_tool_call_output": "custom",
}
# For the OpenAPI document; what is wrong with a message is told in words of our own.
PART_SCHEMA: Json = {
    "type": "object",
    "properties": {"type": {"enum": PART_TYPES}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
CALL_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"enum": ("function", "custom")},
        "function": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
    "required": ["id"],
}
MESSAGE_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "role": {"enum": (*ROLES, "tool")},
        "tool_calls": or_nothing({"type": "array", "items": CALL_SCHEMA}),
        "tool_call_id": or_nothing({"type": "string"}),
        "content": or_nothing(
            {"anyOf": [{"type": "string"}, PART_SCHEMA, {"type": "array", "items": PART_SCHEMA}]}
        ),
        "name": or_nothing({"type": "string", "maxLength": MAX_NAME_CHARS}),
        **{name: True for name in HINTS},
    },
    "required": ["role"],
    "additionalProperties": NOTHING,
}
INPUT_SCHEMA: Json = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                **MESSAGE_SCHEMA,
                "properties": {
                    **MESSAGE_SCHEMA["properties"],
                    "type": or_nothing({"const": "message"}),
                    **{name: True for name in ("id", "status", "phase")},
                },
            },
        },
    ]
}
Messages = Annotated[
    list[Json],
    Field(min_length=1),
    WithJsonSchema({"type": "array", "minItems": 1, "items": MESSAGE_SCHEMA}),
]
Input = Annotated[Any, WithJsonSchema(INPUT_SCHEMA)]
Items = Annotated[list[Any], WithJsonSchema(INPUT_SCHEMA["anyOf"][1])]
MAX_TEXTS = 10_000  # messages, or parts of such as have more: each is some microseconds' work


def parse_messages(raw: list[dict[str, Any]]) -> tuple[Message, ...]:
    """The messages of a chat. Raises InvalidRequest."""
    _check_count(raw, "messages")
    return tuple(_parse_message(message, f"messages[{k}]") for k, message in enumerate(raw))


def parse_input(value: object, where: str = "input") -> tuple[Item, ...]:
    """A text, or a list of messages, as items with new ids. Raises InvalidRequest."""
    if isinstance(value, str):
        return (new_item("user", [value]),)
    if not isinstance(value, list) or not value:
        given = "nothing" if value is None or value == [] else type(value).__name__
        raise InvalidRequest(
            f"{where} must be a string or a list of messages. Given: {given}.", param=where
        )
    _check_count(value, where)
    items = (_parse_item(raw, f"{where}[{k}]") for k, raw in enumerate(value))
    return tuple(item for item in items if item is not None)


def _check_count(raw: list[Any], where: str) -> None:
    contents = [one.get("content") if isinstance(one, dict) else None for one in raw]
    count = sum(len(content) if isinstance(content, list) else 1 for content in contents)
    if count > MAX_TEXTS:
        raise InvalidRequest(
            f"{where} must hold <= {MAX_TEXTS} texts, messages or parts of them. Given: {count}.",
            param=where,
        )


def _parse_message(raw: dict[str, Any], where: str) -> Message:
    raw = asked(raw)
    if raw.get("role") == "tool":
        _refuse_others(raw, RESULT_FIELDS, where)
        text = "".join(_parse_content(raw, "tool", where))
        id, name = text_field(raw, "tool_call_id", where), _parse_name(raw, where)
        return Message("tool", (ToolResult(id, text),), name)
    role = _parse_role(raw, where, ("tool",))
    _refuse_others(raw, ASSISTANT_FIELDS if role == "assistant" else MESSAGE_FIELDS, where)
    text, name = "".join(_parse_content(raw, role, where)), _parse_name(raw, where)
    parts: list[Part] = [text]
    if role == "assistant" and (thought := _parse_reasoning(raw, where)):
        parts = [Reasoning(thought), text]
    if "tool_calls" in raw:
        calls = read_calls(raw["tool_calls"], f"{where}.tool_calls")
        parts = [*(part for part in parts if part), *calls]
    return Message(role, text if parts == [text] else tuple(parts), name)


def _parse_item(raw: object, where: str) -> Item | None:
    """None for what no model reads again."""
    if not isinstance(raw, dict):
        raise InvalidRequest(
            f"{where} must be a message. Given: {type(raw).__name__}.", param=where
        )
    raw = asked(raw)
    kind = raw.get("type", "message")
    kind = kind if isinstance(kind, str) else type(kind).__name__
    if kind == "reasoning":
        thoughts = _parse_thoughts(raw, f"{where}.content")
        return new_item("assistant", thoughts) if thoughts else None
    if isinstance(kind, str) and (kind in CALL_ITEMS or kind in RESULT_ITEMS):
        return _parse_call(raw, kind, where)
    if kind != "message":
        kinds = ", ".join(("message", "reasoning", *CALL_ITEMS, *RESULT_ITEMS))
        raise InvalidRequest(
            f"{where}.type must be one of {kinds}: other kinds of items are not supported. "
            f"Given: {quoted(kind)}.",
            param=f"{where}.type",
        )
    role = _parse_role(raw, where)
    _refuse_others(raw, ITEM_FIELDS, where)
    parts: list[Part] = [*_parse_content(raw, role, where)]
    if role == "assistant" and (thought := _parse_reasoning(raw, where)):
        parts = [Reasoning(thought), *parts]
    return new_item(role, parts, name=_parse_name(raw, where))


def _parse_thoughts(raw: dict[str, Any], where: str) -> list[Reasoning]:
    """Of a reasoning item: of a summary, and what only others can decrypt, nothing is read."""
    content = raw.get("content") or []
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{where} must be a list of texts.", param=where)
    return [Reasoning(part["text"]) for part in parts if part["text"]]


def _parse_reasoning(raw: dict[str, Any], where: str) -> str:
    """What was thought before an answer, under either name."""
    for name in REASONING:
        thought = raw.get(name)
        if thought is not None and not isinstance(thought, str):
            raise InvalidRequest(
                f"{where}.{name} must be a string. Given: {type(thought).__name__}.",
                param=f"{where}.{name}",
            )
        if thought:
            return thought
    return ""


def _parse_call(raw: Json, kind: str, where: str) -> Item:
    """A call, or a result."""
    call_id = text_field(raw, "call_id", where)
    if kind in RESULT_ITEMS:
        _refuse_others(raw, {*CALL_FIELDS, "output"}, where)
        text = "".join(_parse_content({"content": raw.get("output")}, "tool", where, "output"))
        return new_item("tool", [ToolResult(call_id, text, RESULT_ITEMS[kind])])
    field = CALL_ITEMS[kind]
    _refuse_others(raw, {*CALL_FIELDS, field}, where)
    arguments = text_field({field: ""} | raw, field, where)
    call_kind: CallKind = "custom" if kind == "custom_tool_call" else "function"
    name = text_field(raw, "name", where)
    if raw.get("namespace") is not None:
        name = name_in(text_field(raw, "namespace", where), name)
    call = ToolCall(call_id, name, arguments, call_kind)
    return new_item("assistant", [call])


def _parse_name(raw: dict[str, Any], where: str) -> str | None:
    name = raw.get("name")
    if name == "":
        return None
    if name is not None and not (isinstance(name, str) and len(name) <= MAX_NAME_CHARS):
        raise InvalidRequest(
            f"{where}.name must be a string of <= {MAX_NAME_CHARS} characters. "
            f"Given: {quoted(name)}.",
            param=f"{where}.name",
        )
    return name


def _parse_role(raw: dict[str, Any], where: str, others: tuple[str, ...] = ()) -> Role:
    """others: roles that may be there besides."""
    role = raw.get("role")
    if not isinstance(role, str) or role not in ROLES:
        given = "nothing" if role is None else quoted(role)
        raise InvalidRequest(
            f"{where}.role must be one of {', '.join((*ROLES, *others))}. Given: {given}.",
            param=f"{where}.role",
        )
    return ROLES[role]


def _parse_content(
    raw: dict[str, Any], role: Role, where: str, field: str = "content"
) -> list[str]:
    """The texts of a string, of parts or of one part. Only an answer may be without any: what it
    said was a call. A tool may have nothing to say."""
    content, where = raw.get("content"), f"{where}.{field}"
    if isinstance(content, str):
        return [content]
    if content is None and role in ("assistant", "tool"):
        return [""]
    if isinstance(content, dict):
        return [_parse_part(content, where)]
    if not isinstance(content, list):
        given = "nothing" if content is None else type(content).__name__
        raise InvalidRequest(
            f"{where} must be a string or a list of text parts. Given: {given}.", param=where
        )
    return [_parse_part(part, f"{where}[{k}]") for k, part in enumerate(content)]


def _parse_part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in PART_TYPES:
        given = type(part).__name__ if kind is None else quoted(kind)
        raise InvalidRequest(
            f"{where}.type must be {' or '.join(map(repr, PART_TYPES))}: other kinds of content "
            f"are not supported. Given: {given}.",
            param=f"{where}.type",
        )
    part = asked(part)
    _refuse_others(part, PART_FIELDS, where)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be a string.", param=f"{where}.text")
    return text


def _refuse_others(raw: dict[str, Any], known: Collection[str], where: str) -> None:
    for name in raw:
        if name not in known:
            raise InvalidRequest(
                f"{where}.{quoted(name, mark=False)} is not supported. {way_out(name, NEWER)}.",
                param=f"{where}.{name}",
            )
