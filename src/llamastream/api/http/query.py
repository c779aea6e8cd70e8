"""What a request names: an id in its path, options behind the question mark; and pages of lists."""

from collections.abc import Callable, Collection
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from llamastream.api.wire.format import START
from llamastream.api.wire.options import INCLUDABLE, LOGPROBS, unknown_option
from llamastream.errors import InvalidRequest, quoted
from llamastream.records import MAX_LIMIT, Page, PageQuery

MAX_DIGITS = 18
# What may stand there, with the schemas that the OpenAPI document has of it.
INCLUDE: dict[str, dict[str, Any]] = {
    name: {"enum": INCLUDABLE} for name in ("include", "include[]")
}
PAGE_OPTIONS: dict[str, dict[str, Any]] = {
    "after": {"type": "string"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    "order": {"enum": ("asc", "desc")},
}
SEARCH_OPTIONS: dict[str, dict[str, Any]] = {
    "query": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"\w"},
    "limit": PAGE_OPTIONS["limit"],
}
RETRIEVE_OPTIONS: dict[str, dict[str, Any]] = {
    "stream": {"type": "boolean"},
    "starting_after": {"type": "integer", "minimum": 0, "maximum": 10**MAX_DIGITS - 1},
    **INCLUDE,
    "include_obfuscation": {"enum": ("false",)},
}


def path_id(request: Request) -> str:
    return str(request.path_params["id"])


def check_query(request: Request, known: Collection[str]) -> None:
    """Raises InvalidRequest for an option that is unknown or given twice."""
    for name in request.query_params:
        if name not in known:
            raise unknown_option(name, known)
        if len(request.query_params.getlist(name)) > 1:
            raise InvalidRequest(f"{name} must be given once.", param=name)


def read_int(request: Request, name: str) -> int | None:
    """An integer >= 0. Raises InvalidRequest."""
    value = request.query_params.get(name)
    return None if value is None else to_int(value, name)


def to_int(value: str, name: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) <= MAX_DIGITS):
        raise InvalidRequest(f"{name} must be an integer >= 0. Given: {quoted(value)}.", param=name)
    return int(value)


def read_position(request: Request) -> tuple[bool, int]:
    """Whether a stream is asked for, and the number of the last event that was seen, or START.

    Raises InvalidRequest.
    """
    check_query(request, RETRIEVE_OPTIONS)
    check_include(request)
    if read_bool(request, "include_obfuscation"):
        raise InvalidRequest(
            "include_obfuscation must be false: events are not padded.", param="include_obfuscation"
        )
    is_stream = read_bool(request, "stream")
    after = read_int(request, "starting_after")
    if after is not None and not is_stream:
        raise InvalidRequest("starting_after needs stream=true.", param="starting_after")
    last = request.headers.get("last-event-id")
    if after is None and last is not None and is_stream:
        after = to_int(last, "Last-Event-ID")
    return is_stream, START if after is None else after


def read_bool(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false. Given: {quoted(value)}.", param=name)
    return value == "true"


def check_include(request: Request) -> None:
    """Log-probabilities are in what was created with them; there is nothing else to include."""
    for name in INCLUDE:
        value = request.query_params.get(name, LOGPROBS)
        if value not in INCLUDABLE:
            raise InvalidRequest(
                f"include must be one of {', '.join(INCLUDABLE)}. Given: {quoted(value)}.",
                param=name,
            )


def page_query(request: Request, *, known: Collection[str] = (), order: str = "desc") -> PageQuery:
    """`order` is the one that holds if none is given."""
    check_query(request, {*PAGE_OPTIONS, *known})
    check_include(request)
    limit = read_int(request, "limit")
    order = request.query_params.get("order", order)
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order must be asc or desc. Given: {quoted(order)}.", param="order")
    return PageQuery(
        after=request.query_params.get("after"),
        limit=20 if limit is None else limit,
        order="asc" if order == "asc" else "desc",
    )


def page_json(page: Page[Any], to_json: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    data = [to_json(entry) for entry in page.data]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


def json_response(body: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json")
