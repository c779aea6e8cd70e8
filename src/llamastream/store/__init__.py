"""What must survive: conversations, responses, and the journal of streams being generated.

Knows no wire format, no engine and no text encoding. The one invariant: what a future has confirmed
is there after the process was killed. SQLAlchemy takes 0.2 s to import, so what needs it is
imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from llamastream.store.database import Durability, sqlite_url
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

_HOMES = {"Durability": "database", "sqlite_url": "database", "Store": "store"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
