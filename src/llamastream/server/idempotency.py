"""The Idempotency-Key header: a request that is sent again must not be generated again."""

import hashlib
from typing import Any

import orjson
from starlette.requests import Request

from llamastream.service.records import IdempotencyKey

HEADER = "idempotency-key"
HOW_DELIVERED = ("stream", "stream_options")


def idempotency_key(request: Request, body: dict[str, Any]) -> IdempotencyKey | None:
    """The caller's key, with a digest of the request but for how its answer is delivered."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    meant = {
        name: value for name, value in body.items() if name not in ("stream", "stream_options")
    }
    digest = hashlib.sha256(request.url.path.encode() + b"\n")
    digest.update(orjson.dumps(meant, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS))
    return IdempotencyKey(key, digest.digest())
