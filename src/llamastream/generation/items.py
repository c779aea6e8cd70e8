"""Items of conversations and responses as the store keeps them: who said what, without a format.

A body is `{"role", "parts", "status"}`; the parts are texts.
"""

import uuid
from collections.abc import Iterable, Sequence
from typing import Literal

from llamastream.records import Item
from llamastream.types import Message, Role

ItemStatus = Literal["completed", "incomplete"]


def new_item(
    role: Role, parts: Sequence[str], *, status: ItemStatus = "completed", id: str | None = None
) -> Item:
    """An item under a new id, unless `id` gives one."""
    body = {"role": role, "parts": list(parts), "status": status}
    return Item(id or f"msg_{uuid.uuid4().hex}", body)


def output_item(response_id: str, text: str, status: ItemStatus) -> Item:
    return new_item("assistant", [text], status=status, id=output_item_id(response_id))


def output_item_id(response_id: str) -> str:
    """The id of a response's one message, known before anything of it is."""
    return f"msg_{response_id.partition('_')[2]}"


def to_messages(items: Iterable[Item]) -> tuple[Message, ...]:
    return tuple(Message(item.body["role"], "".join(item.body["parts"])) for item in items)
