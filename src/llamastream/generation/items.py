"""Items of conversations and responses as the store keeps them: who said what, without a format.

A body is `{"role", "parts", "status"}`, perhaps with the speaker's `name`. A part that is text is a
string; any other is an object of its fields and its `type`.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from llamastream.records import Item, Json, Response
from llamastream.types import (
    Message,
    OtherPart,
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
        "parts": [part_to_json(part) for part in parts],
        "status": status,
    }
    if name is not None:
        body["name"] = name
    return Item(id or f"{_prefix(parts)}_{uuid.uuid4().hex}", body)


def _prefix(parts: Sequence[Part]) -> str:
    match parts:
        case [ToolCall()]:
            return "fc"
        case [ToolResult()]:
            return "fco"
        case [Reasoning(), *others] if all(isinstance(part, Reasoning) for part in others):
            return "rs"
        case _:
            return "msg"


def output_items(response_id: str, parts: Sequence[Part], status: ItemStatus) -> list[Item]:
    """What an answer consists of: what was thought, a message of its text, and its calls.
    `status`: the last one's."""
    thoughts = [part for part in parts if isinstance(part, Reasoning)]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    said = [part for part in parts if not isinstance(part, Reasoning | ToolCall)]
    items = [
        new_item("assistant", own, id=id)
        for own, id in (
            (thoughts, reasoning_item_id(response_id)),
            (said, output_item_id(response_id)),
        )
        if own
    ]
    items += [
        new_item("assistant", [call], id=call_item_id(response_id, k))
        for k, call in enumerate(calls)
    ]
    items[-1].body["status"] = status
    return items


def output_item_id(response_id: str) -> str:
    """The id of a response's one message, known before anything of it is."""
    return f"msg_{response_id.partition('_')[2]}"


def reasoning_item_id(response_id: str) -> str:
    return f"rs_{response_id.partition('_')[2]}"


def call_item_id(response_id: str, index: int) -> str:
    """The id of its n-th call."""
    return f"fc_{response_id.partition('_')[2]}_{index}"


def response_of(item_id: str) -> str:
    """Of the id of a response's item the part that is the response's own."""
    _, _, rest = item_id.partition("_")
    return rest.partition("_")[0]


def to_messages(items: Iterable[Item]) -> tuple[Message, ...]:
    return join_messages((), map(_message, items))


def join_messages(before: tuple[Message, ...], more: Iterable[Message]) -> tuple[Message, ...]:
    """What an assistant thinks is part of the message behind it, and so are calls of that before
    them."""
    messages = [*before]
    for message in more:
        last = messages[-1] if messages else None
        is_own = last is not None and last.role == message.role == "assistant"
        if last and is_own and (_is_all(Reasoning, last) or _is_all(ToolCall, message)):
            messages[-1] = replace(message, content=(*last.parts, *message.parts))
        else:
            messages.append(message)
    return tuple(messages)


def _is_all(kind: type[OtherPart], message: Message) -> bool:
    return bool(message.parts) and all(isinstance(part, kind) for part in message.parts)


def parts_of(item: Item) -> tuple[Part, ...]:
    return tuple(map(part_from_json, item.body["parts"]))


def result_of(record: Response) -> tuple[str, tuple[OtherPart, ...]]:
    """The text of an answer that has ended, and what else it consists of."""
    if record.result is None:
        return "", ()
    parts = map(part_from_json, record.result.get("parts", ()))
    return record.result["text"], tuple(part for part in parts if not isinstance(part, str))


def _message(item: Item) -> Message:
    body, parts = item.body, parts_of(item)
    is_text = all(isinstance(part, str) for part in parts)
    return Message(body["role"], text_of(parts) if is_text else parts, body.get("name"))


def part_to_json(part: Part) -> str | Json:
    return part if isinstance(part, str) else {"type": _TYPES[type(part)], **asdict(part)}


def part_from_json(value: str | Json) -> Part:
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
