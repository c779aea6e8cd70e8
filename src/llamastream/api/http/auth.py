"""API keys: from a request's headers to a scope. No keys configured: everybody is anonymous."""

import hashlib
import hmac
from collections.abc import Callable, Iterable

from llamastream.errors import Unauthorized

ANONYMOUS = ""
KEY_HEADERS = ("x-api-key", "api-key")  # Anthropic's clients', and Azure's


def authorization(header: Callable[[str], str | None]) -> str | None:
    """A request's `Authorization`, or what it would be with the key that came in another header.

    `header` gives the value of a header by its name in lower case.
    """
    given = header("authorization")
    if given is not None:
        return given
    keys = (key for name in KEY_HEADERS if (key := header(name)) is not None)
    return next((f"Bearer {key}" for key in keys), None)


class KeyRing:
    """The accepted keys. Holds digests only, so that a key cannot leak from here."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask, since no keys are configured."""
        return not self._digests

    def scope_of(self, key: str) -> str:
        """The scope that `key` opens, the same at every start. Raises Unauthorized.

        Takes as long for a wrong key as for a right one.
        """
        if not self._digests:
            return ANONYMOUS
        given = _digest(key)
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized("The API key is not known here. Check `Authorization: Bearer KEY`.")
        return given.hex()[:16]

    def scope_of_header(self, authorization: str | None) -> str:
        """The scope of an `Authorization` header's value. Raises Unauthorized."""
        if not self._digests:
            return ANONYMOUS
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("An API key is required: send `Authorization: Bearer KEY`.")
        return self.scope_of(key.strip())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
