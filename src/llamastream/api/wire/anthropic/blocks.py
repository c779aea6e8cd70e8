"""Messages and system prompts of content blocks, as conversations.

What Anthropic refuses is refused in the same words, where clients look for them; what it merges is
merged: blocks that follow each other, and turns of one role.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

from llamastream.api.wire.messages import MAX_TEXTS
from llamastream.api.wire.options import NOTHING, asked
from llamastream.errors import InvalidRequest, quoted
from llamastream.types import Message, Part, Reasoning, Role

Json = dict[str, Any]
BETWEEN = "\n\n"  # texts of blocks and turns that are merged
# Claude Code's first system block: it changes with each request, and no prompt's prefix would ever
# be found in the cache again.
BILLING = "x-anthropic-billing-header"
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
FIELDS = {
    "text": {"text", "cache_control", "citations"},
    "thinking": {"thinking", "signature"},
}
TEXT_SCHEMA: Json = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string", "pattern": r"\S"}},
    "required": ["type", "text"],
}
CONTENT_SCHEMA: Json = {
    "anyOf": [
        {"type": "string", "pattern": r"\S"},
        {"type": "array", "minItems": 1, "items": TEXT_SCHEMA},
    ]
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
    return tuple(turns)


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
    kind = block.get("type")
    if kind == "thinking" and role == "assistant":
        _check_fields(block, where)
        if not isinstance(thought := block.get("thinking"), str):
            _refuse(f"{where}.thinking", f"must be a string. Given: {_type(thought)}")
        return Reasoning(thought)
    text = _text(block, where)
    if not text.strip():
        _refuse(f"{where}.text", "text content blocks must contain non-whitespace text")
    return text


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
        if name != "type" and (name not in known or name == "citations"):
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
