"""The body of an HTTP request: received within a limit, and made into a JSON object.

What takes long is done off the event loop, for one body at a time.
"""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from llamastream.api.http.json_object import LARGE_BYTES, parse_object
from llamastream.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType, quoted

# `curl -d` says it sends a form, some clients say text: the body decides. A multipart body cannot
# be JSON.
JSON_TYPES = re.compile(
    r"$|application/(?:[\w.-]+\+)?json$|application/x-www-form-urlencoded$|text/"
)
Result = TypeVar("Result")

# One thread: two that compute in Python would only take the lock from each other, and from us.
_aside = ThreadPoolExecutor(1, "body")


async def read_json(
    request: Request, max_body_bytes: int, make: Callable[[dict[str, Any]], Result]
) -> tuple[dict[str, Any], Result]:
    """The body as a JSON object, and what `make` makes of it.

    Raises UnsupportedMediaType, PayloadTooLarge, InvalidRequest, and what `make` raises.
    """

    def parse(body: bytes) -> tuple[dict[str, Any], Result]:
        fields = parse_object(body)
        return fields, make(fields)

    body = await read_body(request, max_body_bytes)
    return await off_loop(len(body) > LARGE_BYTES, parse, body)


async def read_object(request: Request, max_body_bytes: int) -> dict[str, Any]:
    """The same, and nothing made of it."""
    body = await read_body(request, max_body_bytes)
    return await off_loop(len(body) > LARGE_BYTES, parse_object, body)


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """What was sent, if it may be JSON. Raises as `read_json`; no more than the limit is kept."""
    _check_type(request)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_body_bytes):
        raise _too_large(max_body_bytes, quoted(declared, mark=False))
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_body_bytes:
                raise _too_large(max_body_bytes, "more")
    except ClientDisconnect:
        raise InvalidRequest("The client left before the body was complete.") from None
    return bytes(body)


async def off_loop(is_long: bool, work: Callable[..., Result], *args: Any) -> Result:
    """`work(*args)`, elsewhere if it would hold up all streams."""
    if not is_long:
        return work(*args)
    return await asyncio.get_running_loop().run_in_executor(_aside, work, *args)


def _check_type(request: Request) -> None:
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise UnsupportedMediaType(
            "Content-Encoding must be identity: send the body uncompressed. "
            f"Given: {quoted(coding, mark=False)}.",
            param="Content-Encoding",
        )
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not JSON_TYPES.match(media_type):
        raise UnsupportedMediaType(
            f"Content-Type must be application/json. Given: {quoted(media_type, mark=False)}.",
            param="Content-Type",
        )


def _too_large(limit: int, given: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must have <= {limit} bytes. Given: {given}.")
