"""Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}}`, on its paths."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Scope

from llamastream.errors import (
    ChatError,
    ContextLengthExceeded,
    InvalidRequest,
    Overloaded,
    RateLimited,
    quoted,
)

Handler = Callable[[Request], Awaitable[ASGIApp]]

PREFIX = "/v1/messages"
VERSION = b"anthropic-version"  # what its clients send with all requests
VERSIONS = ("2023-06-01", "2026-10-21")
OVERLOADED = 529
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    OVERLOADED: "overloaded_error",
}


def is_anthropic(scope: Scope) -> bool:
    """Whether a request is made in Anthropic's way, which shares the models' path with OpenAI's."""
    path: str = scope.get("path", "")
    if path == PREFIX or path.startswith(PREFIX + "/"):
        return True
    names = (name for name, _ in scope.get("headers", ()))
    return path.startswith("/v1/models") and VERSION in names


def anthropic_error(error: ChatError, request_id: str | None = None) -> tuple[int, dict[str, Any]]:
    """Its status, and the body. A full server is told from a key's own limit."""
    status = error.status
    if isinstance(error, Overloaded) and not isinstance(error, RateLimited):
        status = OVERLOADED
    message = error.message
    if isinstance(error, ContextLengthExceeded) and error.num_tokens is not None:
        # In words that clients look for: Claude Code then sums its conversation up.
        message = f"prompt is too long: {error.num_tokens} tokens > {error.limit} maximum"
    kind = TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    said: dict[str, Any] = {"type": kind, "message": message.encode("utf-8", "replace").decode()}
    if isinstance(error, InvalidRequest) and error.param == "thread":
        # The SDKs look for it, and then send the whole conversation.
        said["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return status, {"type": "error", "error": said, "request_id": request_id}


def versioned(handle: Handler) -> Handler:
    """A route that speaks one version of the interface."""

    async def handled(request: Request) -> ASGIApp:
        given = request.headers.get("anthropic-version", VERSIONS[0])
        if given not in VERSIONS:
            raise InvalidRequest(
                f"anthropic-version must be {' or '.join(VERSIONS)}. "
                f"Given: {quoted(given, mark=False)}.",
                param="anthropic-version",
            )
        return await handle(request)

    return handled
