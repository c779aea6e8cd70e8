"""What must survive: conversations, responses, and the journal of streams being generated.

Knows no wire format, no engine and no text encoding. The one invariant: what a future has confirmed
is there after the process was killed.
"""

from llamastream.store.database import Durability, sqlite_url
from llamastream.store.records import (
    Conversation,
    Created,
    IdempotencyKey,
    Interrupted,
    Item,
    NewResponse,
    Outcome,
    Page,
    PageQuery,
    Recovery,
    Response,
    Retention,
    Status,
    Swept,
)
from llamastream.store.store import Store

__all__ = [
    "Conversation",
    "Created",
    "Durability",
    "IdempotencyKey",
    "Interrupted",
    "Item",
    "NewResponse",
    "Outcome",
    "Page",
    "PageQuery",
    "Recovery",
    "Response",
    "Retention",
    "Status",
    "Store",
    "Swept",
    "sqlite_url",
]
