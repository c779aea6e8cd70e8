"""Whose call it is. The key comes first: before it is known, no more than KEYLESS_BYTES are looked
at, and nothing is parsed but what may hold it.

jina.Client sends no header over gRPC, so that wire carries the key in the document, as `api_key`.
"""

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice

from llamastream.errors import InvalidRequest, Unauthorized
from llamastream.jina.reading import MAX_FIELDS_TO_KEY, document_fields, read_call

KEYLESS_BYTES = 64 * 1024  # of a message or body whose sender is not known yet
KEY = "api_key"
JSON_KEY = re.compile(rb'"api_key"\s*:\s*("(?:[^"\\]|\\.)*")')
MAX_CANDIDATES = 8  # what a document nests may have fields of that name, too

Authorize = Callable[[str | None], str]
"""Value of an `Authorization` header (None: none was sent) -> scope. Raises Unauthorized."""

Refresh = Callable[[], Awaitable[None]]
"""Called before a call's key is looked at: what was revoked by then is refused."""


async def no_refresh() -> None:
    """For keys that never change."""


class Keys:
    def __init__(self, authorize: Authorize, refresh: Refresh) -> None:
        self._authorize = authorize
        self.refresh = refresh

    def require(self, header: str | None) -> str:
        """The scope that a header opens, for what has no document. Raises Unauthorized."""
        return self._authorize(header)

    def of_header(self, header: str | None) -> str | None:
        """The scope that a header opens. None: a key is wanted, and may be in the document.

        Raises Unauthorized for one that is not known.
        """
        try:
            return self._authorize(header)
        except Unauthorized:
            if header is not None:
                raise
            return None

    def of_key(self, key: object) -> str:
        """The scope of a document's `api_key`, None if it has none. Raises Unauthorized."""
        if key is None:
            return self._authorize(None)
        if not isinstance(key, str):
            raise InvalidRequest("api_key must be a string.", param=KEY)
        return self._authorize(f"Bearer {key}")

    def check_json(self, body: bytes) -> None:
        """Whether a body holds a key at all: whose it is, `of_key` tells once it is parsed.

        Raises Unauthorized.
        """
        for match in islice(JSON_KEY.finditer(body), MAX_CANDIDATES):
            with suppress(ValueError, Unauthorized):
                self.of_key(json.loads(match[1]))
                return
        self.of_key(None)

    def of_message(self, message: bytes) -> str:
        """The scope of the `api_key` in a SingleDocumentRequest. Raises Unauthorized."""
        try:
            document = read_call(message, MAX_FIELDS_TO_KEY).document
            return self.of_key(document_fields(document, (KEY,), MAX_FIELDS_TO_KEY).get(KEY))
        except ValueError:
            return self.of_key(None)


def too_large_for_a_key() -> Unauthorized:
    return Unauthorized(
        "An API key is required: send `Authorization: Bearer KEY`, over gRPC as metadata. In a "
        f"document (api_key) it is looked for only if that has <= {KEYLESS_BYTES} bytes.",
        param=KEY,
    )
