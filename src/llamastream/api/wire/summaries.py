"""Items that stand for a conversation: a summary, in a form that clients do not look into.

By the specification's name its content is encrypted. It is base64: all of it is the client's own.
"""

import base64
import binascii
from typing import Any

from llamastream.errors import InvalidRequest

COMPACTION = "compaction"
BEFORE = "Summary of the conversation so far:\n"


def summary_item(id: str, text: str) -> dict[str, Any]:
    content = base64.b64encode(text.encode()).decode()
    return {"type": COMPACTION, "id": id, "encrypted_content": content}


def summary_message(item: dict[str, Any], where: str) -> dict[str, Any]:
    """The message that an item of an input stands for. Raises InvalidRequest."""
    content = item.get("encrypted_content")
    try:
        text = base64.b64decode(content, validate=True).decode() if content else ""
    except (TypeError, ValueError, binascii.Error):
        text = ""
    if not text:
        raise InvalidRequest(
            f"{where}.encrypted_content must be what /v1/responses/compact gave.",
            param=f"{where}.encrypted_content",
        )
    return {"type": "message", "role": "system", "content": BEFORE + text}
