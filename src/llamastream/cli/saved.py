"""Conversations that the chat page saved (web/src/transfer.ts), as the lines of an export."""

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import orjson

from llamastream.api.wire.messages import parse_input
from llamastream.errors import InvalidRequest

FORMAT = "llamastream conversations 1"


def export_lines(file: BinaryIO, scope: str) -> Iterable[bytes]:
    """Those of `file`, or where the page wrote it, those that make its conversations `scope`'s.

    Raises InvalidRequest.
    """
    if file.readline().startswith(b'{"kind":'):
        file.seek(0)
        return file
    file.seek(0)
    try:
        saved = orjson.loads(file.read())
    except orjson.JSONDecodeError:
        saved = None
    if isinstance(saved, dict) and saved.get("format") == FORMAT:
        return _lines(saved, scope)
    file.seek(0)
    return file


def _lines(saved: dict[str, Any], scope: str) -> Iterator[bytes]:
    yield orjson.dumps({"kind": "header", "format": 1})
    try:
        for conversation in saved["conversations"]:
            yield from map(orjson.dumps, _conversation(conversation, scope))
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"It is not as the page writes such files: {error!r}.") from None


def _conversation(saved: dict[str, Any], scope: str) -> Iterator[dict[str, Any]]:
    id = saved.get("id") or f"conv_{uuid.uuid4().hex}"  # older pages saved none
    yield {
        "kind": "conversation",
        "id": id,
        "scope": scope,
        "created_at": saved["created_at"],
        "updated_at": time.time(),
        "metadata": {"title": saved["title"]},
    }
    for position, one in enumerate(saved["items"]):
        step = one.get("step") or {"role": one["role"], "content": one["text"]}
        for item in parse_input([step]):  # one, or none where no model would read it again
            follows = {"follows": one["after"]} if "after" in one else {}
            yield {
                "kind": "item",
                "id": one["id"],
                "body": item.body,
                **follows,
                "position": position,
                "part": None,
                "conversation_id": id,
                "response_id": None,
            }
