"""The store's plain values, for those above the service."""

from llamastream.store.records import (
    Conversation,
    IdempotencyKey,
    Item,
    Page,
    PageQuery,
    Response,
    Status,
)

__all__ = ["Conversation", "IdempotencyKey", "Item", "Page", "PageQuery", "Response", "Status"]
