"""The Idempotency-Key header: a request that is sent again must not be generated again."""

import hashlib
import json
from typing import Any

from starlette.requests import Request

from llamastream.api.wire.options import asked
from llamastream.errors import InvalidRequest
from llamastream.records import IdempotencyKey

HEADER = "idempotency-key"
HOW_DELIVERED = ("stream", "stream_options")


def idempotency_key(request: Request, body: dict[str, Any]) -> IdempotencyKey | None:
    """The caller's key, with a digest of the request but for how its answer is delivered."""
    key = request.headers.get(HEADER)
    return None if key is None else make_key(key, request.url.path, body)


def refuse_key(key: str | None, way_out: str = "needs `store: true`") -> None:
    """For a request that cannot be found again by a key. Raises InvalidRequest if it has one."""
    if key is not None:
        raise InvalidRequest(f"Idempotency-Key {way_out}.", param="Idempotency-Key")


def make_key(key: str, path: str, body: dict[str, Any]) -> IdempotencyKey:
    meant = {name: value for name, value in asked(body).items() if name not in HOW_DELIVERED}
    digest = hashlib.sha256(path.encode() + b"\n")
    digest.update(json.dumps(meant, sort_keys=True).encode())
    return IdempotencyKey(key, digest.digest())
