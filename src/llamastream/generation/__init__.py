"""Joins chat, engine and store: a checked ChatRequest in, a Stream of Deltas out.

Knows no wire format, and of the engine only the protocol in `protocol.py`.
"""

from llamastream.generation.chat_service import ChatService
from llamastream.generation.protocol import Engine
from llamastream.generation.stream import Stream

__all__ = ["ChatService", "Engine", "Stream"]
