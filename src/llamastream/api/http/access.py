"""What happens to every request before its route: a request id, who may ask, and the API key's
scope.

Leaves in `scope["state"]`: `label` (the id, as the client gave it or made here), `key`, `key_scope`
and `check_key`, for connections that last: it raises Unauthorized when the key has been revoked.
"""

import re
import uuid
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamastream.api.http.anthropic_errors import is_anthropic
from llamastream.api.http.auth import KeyRing, authorization
from llamastream.api.http.browsers import BrowserRules
from llamastream.api.http.errors import error_response
from llamastream.api.http.openapi import PATH as OPENAPI
from llamastream.api.http.page import ASSETS
from llamastream.errors import ChatError

# Probes of load balancers carry no key, jina.Client's may be inside the document, the page asks for
# one, and the interface is no secret.
OPEN_PATHS = frozenset({"/", "/health", "/dry_run", "/stream", OPENAPI})
LABEL = re.compile(r"[\w.:-]{1,128}", re.ASCII)  # safe in a log line and in a header


class AccessCheck:
    """ASGI middleware. Answers 401, 403 and 421 itself."""

    def __init__(self, app: ASGIApp, keys: KeyRing, browsers: BrowserRules) -> None:
        self._app = app
        self._keys = keys
        self._browsers = browsers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        label = given if LABEL.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["label"] = label
        names = [b"x-request-id", *([b"request-id"] if is_anthropic(scope) else [])]
        labelled = _labelled(send, [(name, label.encode()) for name in names])
        path = scope["path"]
        is_open = path in OPEN_PATHS or path.startswith(ASSETS)
        try:
            self._browsers.check(scope, is_open=self._keys.is_open)
            await self._keys.refresh()
            if not is_open and scope.get("method") != "OPTIONS":
                key = state["key"] = self._keys.key_of_header(authorization(headers.get))
                state["key_scope"] = key.scope
                state["check_key"] = partial(self._keys.check, key)
        except ChatError as error:
            await error_response(error, scope)(scope, receive, labelled)
            return
        await self._app(scope, receive, labelled)


def _labelled(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *headers]
        await send(message)

    return labelled
