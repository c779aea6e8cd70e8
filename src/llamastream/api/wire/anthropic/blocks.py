"""Messages and system prompts of content blocks, as conversations.

What Anthropic refuses is refused in the same words, where clients look for them; what it merges is
merged: blocks that follow each other, and turns of one role.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from llamastream.api.wire.messages import MAX_TEXTS
from llamastream.api.wire.options import NOTHING, asked
from llamastream.api.wire.tools import text_field
from llamastream.errors import InvalidRequest, quoted
from llamastream.types import Message, Part, Reasoning, Role, ToolCall, ToolResult

Json = dict[str, Any]
BETWEEN = "\n\n"  # texts of blocks and turns that are merged
# Claude Code's first system block: it changes with each request, and no prompt's prefix would ever
# be found in the cache again.
BILLING = "x-anthropic-billing-header"
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
# What a block of each kind may hold besides, in whose messages.
FIELDS = {
    "text": {"text", "cache_control", "citations"},
    "thinking": {"thinking", "signature"},
    "tool_use": {"id", "name", "input", "cache_control", "caller"},
    "tool_result": {"tool_use_id", "content", "is_error", "cache_control"},
}
KINDS = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "system": ("text",),
}


def _block_schema(kind: str, **fields: Json) -> Json:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **fields},
        "required": ["type", *fields],
    }


TEXT_SCHEMA = _block_schema("text", text={"type": "string", "pattern": r"\S"})
BLOCKS = (
    TEXT_SCHEMA,
    _block_schema("thinking", thinking={"type": "string"}),
    _block_schema(
        "tool_use", id={"type": "string"}, name={"type": "string"}, input={"type": "object"}
    ),
    _block_schema("tool_result", tool_use_id={"type": "string"}),
)
SYSTEM_SCHEMA: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_SCHEMA}]}
CONTENT_SCHEMA: Json = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": list(BLOCKS)}}]
}
MESSAGES_SCHEMA: Json = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"role": {"enum": tuple(ROLES)}, "content": CONTENT_SCHEMA},
        "required": ["role", "content"],
        "additionalProperties": NOTHING,
    },
}


def parse_system(value: object) -> tuple[Message, ...]:
    """`system`: a text, or blocks of text. Raises InvalidRequest."""
    if isinstance(value, str):
        texts = [value]
    elif isinstance(value, list):
        texts = [_text(block, f"system[{k}]") for k, block in enumerate(value)]
    else:
        _refuse("system", f"must be a string or a list of text blocks. Given: {_type(value)}")
    kept = [text for text in texts if text and not text.startswith(BILLING)]
    return (Message("system", BETWEEN.join(kept)),) if kept else ()


def parse_turns(raw: list[Any]) -> tuple[Message, ...]:
    """`messages`. Raises InvalidRequest."""
    if len(raw) > MAX_TEXTS:
        _refuse("messages", f"must hold <= {MAX_TEXTS} messages. Given: {len(raw)}")
    turns: list[Message] = []
    for k, one in enumerate(raw):
        turn = _parse_turn(one, f"messages[{k}]", is_last=k == len(raw) - 1)
        if turns and turns[-1].role == turn.role:
            turn = Message(turn.role, _merged([*turns.pop().parts, *turn.parts]))
        turns.append(turn)
    _check_results(turns)
    return tuple(message for turn in turns for message in _messages_of(turn))


def _check_results(turns: list[Message]) -> None:
    """Calls are answered in the turn behind theirs, and nothing else is."""
    for turn, after in zip([Message("user", ""), *turns], [*turns, None], strict=True):
        made = [part.id for part in turn.parts if isinstance(part, ToolCall)]
        parts = () if after is None else after.parts
        found = [part.call_id for part in parts if isinstance(part, ToolResult)]
        for id in set(found) - set(made):
            _refuse(
                "messages",
                f"unexpected `tool_use_id` found in `tool_result` blocks: {quoted(id, mark=False)}."
                " Each `tool_result` block must have a corresponding `tool_use` block in the "
                "previous message",
            )
        for id in set(made) - set(found):
            _refuse(
                "messages",
                "`tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{quoted(id, mark=False)}",
            )


def _messages_of(turn: Message) -> Iterator[Message]:
    """A turn of results is a message for each, and then what is said besides."""
    results = [part for part in turn.parts if isinstance(part, ToolResult)]
    if not results:
        yield turn
        return
    yield from (Message("tool", (result,)) for result in results)
    said = _merged(part for part in turn.parts if not isinstance(part, ToolResult))
    if said:
        yield Message(turn.role, said)


def _parse_turn(raw: object, where: str, *, is_last: bool) -> Message:
    if not isinstance(raw, dict):
        _refuse(where, f"must be a message. Given: {_type(raw)}")
    role = raw.get("role")
    if not isinstance(role, str) or role not in ROLES:
        _refuse(f"{where}.role", f"must be one of {', '.join(ROLES)}. Given: {quoted(role)}")
    for name in asked(raw):
        if name not in ("role", "content"):
            _refuse(f"{where}.{quoted(name, mark=False)}", "is not supported. Leave it out")
    content = raw.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        _refuse(f"{where}.content", f"must be a string or a list. Given: {_type(content)}")
    is_begun = is_last and role == "assistant"
    if not content and not is_begun:
        _refuse(
            where, "all messages must have non-empty content, but for a final assistant message"
        )
    parts = [_parse_block(block, role, f"{where}.content[{k}]") for k, block in enumerate(content)]
    last = parts[-1] if parts else ""
    if is_begun and isinstance(last, str) and last != last.rstrip():
        _refuse(f"{where}.content", "final assistant content cannot end with trailing whitespace")
    return Message(ROLES[role], _merged(parts))


def _parse_block(block: object, role: str, where: str) -> Part:
    if not isinstance(block, dict):
        _refuse(where, f"must be a content block. Given: {_type(block)}")
    kind, kinds = block.get("type"), KINDS[role]
    if kind not in kinds:
        _refuse(
            f"{where}.type",
            f"must be {' or '.join(map(repr, kinds))} in {role} messages: this model reads text "
            f"alone. Given: {quoted(kind)}. Send what it says as text",
        )
    if kind == "thinking":
        _check_fields(block, where)
        return Reasoning(text_field(block, "thinking", where))
    if kind == "tool_use":
        return _parse_call(block, where)
    if kind == "tool_result":
        return _parse_result(block, where)
    text = _text(block, where)
    if not text.strip():
        _refuse(f"{where}.text", "text content blocks must contain non-whitespace text")
    return text


def _parse_call(block: Json, where: str) -> ToolCall:
    _check_fields(block, where)
    given = block.get("input")
    if not isinstance(given, dict):
        _refuse(f"{where}.input", f"must be an object. Given: {_type(given)}")
    name, arguments = text_field(block, "name", where), json.dumps(given, ensure_ascii=False)
    return ToolCall(text_field(block, "id", where), name, arguments)


def _parse_result(block: Json, where: str) -> ToolResult:
    """A tool that failed says so, where its result does not."""
    _check_fields(block, where)
    content = block.get("content")
    if content is None:
        content = ""
    elif isinstance(content, list):
        texts = [_text(part, f"{where}.content[{k}]") for k, part in enumerate(content)]
        content = BETWEEN.join(texts)
    elif not isinstance(content, str):
        _refuse(f"{where}.content", f"must be a string or a list. Given: {_type(content)}")
    is_error = block.get("is_error")
    if not isinstance(is_error, bool | None):
        _refuse(f"{where}.is_error", f"must be true or false. Given: {quoted(is_error)}")
    if is_error and "error" not in content.lower():
        content = f"Error: {content}"
    return ToolResult(text_field(block, "tool_use_id", where), content)


def _text(block: object, where: str) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or kind != "text":
        _refuse(
            f"{where}.type",
            f"must be 'text': this model reads text alone. Given: {quoted(kind)}. "
            "Send what it says as text",
        )
    _check_fields(block, where)
    text = block.get("text")
    if not isinstance(text, str):
        _refuse(f"{where}.text", f"must be a string. Given: {_type(text)}")
    return text


def _check_fields(block: Json, where: str) -> None:
    known = FIELDS[block["type"]]
    for name in asked(block):
        if name not in known and name != "type" or name == "citations":
            _refuse(f"{where}.{quoted(name, mark=False)}", "is not supported. Leave it out")


def _merged(parts: Iterable[Part]) -> str | tuple[Part, ...]:
    """Texts that follow each other as one."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += BETWEEN + part
        else:
            merged.append(part)
    if len(merged) == 1 and isinstance(merged[0], str):
        return merged[0]
    return tuple(merged)


def _type(value: object) -> str:
    return "nothing" if value is None else type(value).__name__


def _refuse(param: str, problem: str) -> NoReturn:
    raise InvalidRequest(f"{param}: {problem}.", param=param)
