"""Every error in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, but on
Anthropic's paths."""

import logging

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from llamastream.api.http.anthropic_errors import anthropic_error, is_anthropic
from llamastream.errors import (
    ChatError,
    EngineDead,
    InternalError,
    ModelNotFound,
    NotFound,
    Overloaded,
    ResponseInterrupted,
    StoreUnavailable,
    TooManyConnections,
    Unauthorized,
    quoted,
)

logger = logging.getLogger(__name__)

LOADING_RETRY_AFTER_S = 2  # a model loads in seconds; a dead engine is restarted in about as long
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def error_fields(error: ChatError) -> dict[str, str | None]:
    """What is under `error` in the JSON. Text that is not Unicode (lone surrogates, taken from a
    field's name or value) is replaced by `?`."""
    if error.status >= 500:
        kind = "server_error"
    else:
        kind = "rate_limit_error" if error.status == 429 else "invalid_request_error"
    found = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return {k: v and v.encode("utf-8", "replace").decode() for k, v in found.items()}


def error_body(error: ChatError) -> bytes:
    return orjson.dumps({"error": error_fields(error)})


def retry_after_s(error: ChatError) -> int | None:
    """When to come back, where that helps."""
    if isinstance(error, Overloaded):
        return error.retry_after_s
    if isinstance(error, ResponseInterrupted | TooManyConnections):
        return 1
    if isinstance(error, EngineDead | StoreUnavailable):
        return LOADING_RETRY_AFTER_S
    return None


def error_response(error: ChatError, scope: Scope | None = None) -> Response:
    """The whole answer to the request of `scope`, with Retry-After where coming back helps."""
    headers: dict[str, str] = {}
    if (seconds := retry_after_s(error)) is not None:
        headers["retry-after"] = str(seconds)
    elif isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    status, body = error.status, error_body(error)
    if scope is not None and is_anthropic(scope):
        status, fields = anthropic_error(error, scope.get("state", {}).get("label"))
        body = orjson.dumps(fields)
    return Response(body, status, headers, media_type="application/json")


async def on_chat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    return error_response(error, request.scope)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such route, wrong method."""
    assert isinstance(error, HTTPException)
    path, hint = request.url.path, ""
    headers = dict(error.headers or {})
    if error.status_code == 405:  # of the routes with this path, Starlette names the first one's
        headers["allow"] = _methods(request, path)
        hint = f" Allowed: {headers['allow']}."
    elif error.status_code == 404 and request.method in _methods(request, f"/v1{path}"):
        hint = f" Did you mean {quoted(f'/v1{path}', mark=False)}?"
    refusal = ChatError(f"{request.method} {quoted(path, mark=False)}: {error.detail}.{hint}")
    refusal.status = error.status_code
    refusal.code = HTTP_CODES.get(error.status_code, "http_error")
    response = error_response(refusal, request.scope)
    response.headers.update(headers)
    return response


def _methods(request: Request, path: str) -> str:
    """Those that `path` has, as in an `Allow` header. A name of its own is no id."""
    scope = {**request.scope, "path": path}
    found = [
        route
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE
    ]
    named = [route for route in found if route.path == path] or found
    return ", ".join(sorted(method for route in named for method in route.methods or ()))


async def on_bug(request: Request, error: Exception) -> Response:
    """The last resort. Starlette raises the exception again, so its traceback is logged."""
    bug = InternalError(f"Internal error: {type(error).__name__}.")
    return error_response(bug, request.scope)


def check_model(name: str, served: str) -> None:
    """Raises ModelNotFound."""
    if name != served:
        raise ModelNotFound(
            f"The model {quoted(name)} is not served here. Available: {served}.", param="model"
        )


def check_id(id: str, prefix: str, param: str = "response_id") -> str:
    """`id`, if it can be one of these. Raises NotFound as for one that is not there."""
    if not id.startswith(prefix):
        raise NotFound(f"Response {quoted(id)} not found.", param=param)
    return id
