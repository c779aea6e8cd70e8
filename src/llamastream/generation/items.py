"""Items of conversations and responses as the store keeps them: who said what, without a format.

A body is `{"role", "parts", "status"}`, perhaps with the speaker's `name`; the parts are texts.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from llamastream.records import Item
from llamastream.types import Message, Role

ItemStatus = Literal["completed", "incomplete"]


def new_item(
    role: Role,
    parts: Sequence[str],
    *,
    name: str | None = None,
    status: ItemStatus = "completed",
    id: str | None = None,
) -> Item:
    """An item under a new id, unless `id` gives one."""
    body: dict[str, Any] = {"role": role, "parts": list(parts), "status": status}
    if name is not None:
        body["name"] = name
    return Item(id or f"msg_{uuid.uuid4().hex}", body)


def output_item(response_id: str, text: str, status: ItemStatus) -> Item:
    return new_item("assistant", [text], status=status, id=output_item_id(response_id))


def output_item_id(response_id: str) -> str:
    """The id of a response's one message, known before anything of it is."""
    return f"msg_{response_id.partition('_')[2]}"


def to_messages(items: Iterable[Item]) -> tuple[Message, ...]:
    return tuple(map(_message, items))


def _message(item: Item) -> Message:
    body = item.body
    return Message(body["role"], "".join(body["parts"]), body.get("name"))
