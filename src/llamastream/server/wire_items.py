"""Items of conversations and responses on the wire: messages of text, and nothing else yet."""

from typing import Any

from llamastream.errors import InvalidRequest
from llamastream.server.messages import parse_content, parse_role, refuse_others
from llamastream.service.items import new_item
from llamastream.service.records import Item

Json = dict[str, Any]

PART_TYPES = ("input_text", "output_text", "text")
# Fields that clients send back with an item they were given. Empty, or of ours, they say nothing.
PART_FIELDS = ("annotations", "logprobs")
ITEM_FIELDS = {"type", "role", "content", "id", "status", "phase"}
MAX_INPUT_ITEMS = 10_000


def parse_input(value: object, where: str = "input") -> tuple[Item, ...]:
    """A text, or a list of messages, as items with new ids. Raises InvalidRequest."""
    if isinstance(value, str):
        return (new_item("user", [value]),)
    if not isinstance(value, list) or not value:
        given = "nothing" if value is None or value == [] else type(value).__name__
        raise InvalidRequest(
            f"{where} must be a string or a list of messages. Given: {given}.", param=where
        )
    if len(value) > MAX_INPUT_ITEMS:
        raise InvalidRequest(
            f"{where} must hold <= {MAX_INPUT_ITEMS} items. Given: {len(value)}.", param=where
        )
    return tuple(_parse_item(raw, f"{where}[{k}]") for k, raw in enumerate(value))


def wire_item(item: Item) -> Json:
    body = item.body
    return message(item.id, body["role"], body["parts"], status=body["status"])


def message(id: str, role: str, parts: list[str], *, status: str) -> Json:
    content = [
        output_text(text) if role == "assistant" else {"type": "input_text", "text": text}
        for text in parts
    ]
    return {"type": "message", "id": id, "status": status, "role": role, "content": content}


def output_text(text: str, logprobs: list[Json] | None = None) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def _parse_item(raw: object, where: str) -> Item:
    if not isinstance(raw, dict):
        raise InvalidRequest(
            f"{where} must be a message. Given: {type(raw).__name__}.", param=where
        )
    kind = raw.get("type", "message")
    if kind != "message":
        raise InvalidRequest(
            f"{where}.type must be 'message': other kinds of items are not supported. "
            f"Given: {kind!r}."[:300],
            param=f"{where}.type",
        )
    role = parse_role(raw, where)
    refuse_others(raw, ITEM_FIELDS, where)
    content = parse_content(
        raw.get("content"), f"{where}.content", types=PART_TYPES, known=PART_FIELDS
    )
    return new_item(role, content)
