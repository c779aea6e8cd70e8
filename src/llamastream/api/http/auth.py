"""API keys: from a request's headers to a key that is known. No keys configured: everybody is
anonymous."""

from collections.abc import Callable

from starlette.requests import Request

from llamastream.errors import Forbidden, Unauthorized
from llamastream.keys import ANONYMOUS, Key, Keys

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
    """Who a request is from, by the keys that are accepted when it comes."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @property
    def is_open(self) -> bool:
        """Whether everybody may ask, since no keys are configured."""
        return not self._keys.are_required

    async def refresh(self) -> None:
        """Before a request's key is looked at: what was revoked by then is refused."""
        await self._keys.refresh()

    def key_of_header(self, authorization: str | None) -> Key:
        """The key in an `Authorization` header's value. Raises Unauthorized."""
        if self.is_open:
            return ANONYMOUS
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Unauthorized("An API key is required: send `Authorization: Bearer KEY`.")
        key = self._keys.find(given.strip())
        if key is None:
            raise Unauthorized("The API key is not known here. Check `Authorization: Bearer KEY`.")
        return key

    def scope_of_header(self, authorization: str | None) -> str:
        return self.key_of_header(authorization).scope

    async def check(self, key: Key) -> None:
        """Raises Unauthorized if a key that was good once has been revoked."""
        await self.refresh()
        if not self._keys.holds(key):
            raise Unauthorized("The API key has been revoked.")


def check_admin(key: Key) -> None:
    """Raises Forbidden for a key that may not see what concerns all."""
    if not key.is_admin:
        raise Forbidden(
            "This needs a key with `admin = true`: it shows what all keys do together. "
            "See `llamastream keys add --admin`."
        )


def scope_of(request: Request) -> str:
    """Whose a request is, as its key says."""
    return str(request.state.key_scope)
