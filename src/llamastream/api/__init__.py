"""Wire formats only: what arrives becomes a checked ChatRequest, what leaves is framed Deltas.

Knows the service, not the engine. The one entry is `create_app`.
"""

from llamastream.api.app import create_app

__all__ = ["create_app"]
