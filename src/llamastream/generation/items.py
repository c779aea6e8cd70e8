"""Items of conversations and responses as the store keeps them: who said what, without a format.

A body is `{"role", "parts", "status"}`, perhaps with the speaker's `name`. A part that is text is a
string; any other is an object of its fields and its `type`.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from llamastream.records import Item, Json
from llamastream.types import (
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    ToolCall,
    ToolResult,
    text_of,
)

ItemStatus = Literal["completed", "incomplete"]


def new_item(
    role: Role,
    parts: Sequence[Part],
    *,
    name: str | None = None,
    status: ItemStatus = "completed",
    id: str | None = None,
) -> Item:
    """An item under a new id, unless `id` gives one."""
    body: dict[str, Any] = {
        "role": role,
        "parts": parts_to_json(parts),
        "status": status,
    }
    if name is not None:
        body["name"] = name
    return Item(id or f"msg_{uuid.uuid4().hex}", body)


def output_item(response_id: str, parts: Sequence[Part], status: ItemStatus) -> Item:
    return new_item("assistant", parts, status=status, id=output_item_id(response_id))


def output_item_id(response_id: str) -> str:
    """The id of a response's one message, known before anything of it is."""
    return f"msg_{response_id.partition('_')[2]}"


def to_messages(items: Iterable[Item]) -> tuple[Message, ...]:
    return tuple(map(_message, items))


def parts_of(item: Item) -> tuple[Part, ...]:
    return parts_from_json(item.body["parts"])


def parts_to_json(parts: Iterable[Part]) -> list[str | Json]:
    return list(map(_to_json, parts))


def parts_from_json(values: Iterable[str | Json]) -> tuple[Part, ...]:
    return tuple(map(_from_json, values))


def _message(item: Item) -> Message:
    body, parts = item.body, parts_of(item)
    is_text = all(isinstance(part, str) for part in parts)
    return Message(body["role"], text_of(parts) if is_text else parts, body.get("name"))


def _to_json(part: Part) -> str | Json:
    return part if isinstance(part, str) else {"type": _TYPES[type(part)], **asdict(part)}


def _from_json(value: str | Json) -> Part:
    if isinstance(value, str):
        return value
    fields = dict(value)
    return _KINDS[fields.pop("type")](**fields)


_KINDS: dict[str, type[Reasoning | Refusal | ToolCall | ToolResult]] = {
    "reasoning": Reasoning,
    "refusal": Refusal,
    "tool_call": ToolCall,
    "tool_result": ToolResult,
}
_TYPES = {kind: name for name, kind in _KINDS.items()}
