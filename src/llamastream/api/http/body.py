"""From an HTTP request to a JSON object, refusing what JSON parsers let through in silence.

NaN and infinity, numbers out of range, duplicate keys, deep nesting and text that is not Unicode
are errors here, so that nothing behind this module has to think of them.
"""

import json
import math
import re
import sys
from collections import Counter
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from llamastream.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

# `curl -d` says it sends a form, some clients say text: the body decides. A multipart body cannot
# be JSON.
JSON_TYPES = re.compile(
    r"$|application/(?:[\w.-]+\+)?json$|application/x-www-form-urlencoded$|text/"
)
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


async def read_json(request: Request, max_body_bytes: int) -> dict[str, Any]:
    """The body as a JSON object. Raises UnsupportedMediaType, PayloadTooLarge, InvalidRequest."""
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding must be identity: send the body uncompressed. Given: {coding[:60]}.",
            param="Content-Encoding",
        )
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not JSON_TYPES.match(media_type):
        raise UnsupportedMediaType(
            f"Content-Type must be application/json. Given: {media_type}.", param="Content-Type"
        )
    return parse_object(await _read_body(request, max_body_bytes))


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object from bytes. Raises InvalidRequest."""
    try:
        text = body.decode("utf-8-sig")  # a byte order mark, which Windows' editors write
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is invalid.") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except ValueError:  # so says Python of an integer of thousands of digits
        raise InvalidRequest(
            "The body holds a number out of range: an integer must have <= "
            f"{sys.get_int_max_str_digits()} digits."
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if SURROGATE_ESCAPE.search(text):
        _refuse_lone_surrogates(value)
    return value


async def _read_body(request: Request, max_body_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_body_bytes:
        raise _too_large(max_body_bytes, declared)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_body_bytes:
                raise _too_large(max_body_bytes, "more")
    except ClientDisconnect:
        raise InvalidRequest("The client left before the body was complete.") from None
    return bytes(body)


def _too_large(limit: int, given: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body must have <= {limit} bytes. Given: {given}.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidRequest(f"The body holds {twice[:100]!r} twice.", param=twice[:100])
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body holds {name}, which is not JSON.")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidRequest(f"The body holds a number out of range: {digits[:50]}.")
    return value


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("The body holds half of a surrogate pair (\\ud800-\\udfff).") from None
