"""What a key may still have, in OpenAI's `x-ratelimit-*` headers of every answer to it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamastream.generation.quotas import Quotas, Room

WHAT = ("limit", "remaining", "reset")
HEADERS = [f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in WHAT]


class RateLimits:
    """ASGI middleware behind the gate, which tells whose request it is."""

    def __init__(self, app: ASGIApp, quotas: Quotas) -> None:
        self._app = app
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def limited(message: Message) -> None:
            if message["type"] == "http.response.start":
                key_scope = scope["state"].get("key_scope")
                rooms = {} if key_scope is None else self._quotas.rooms(key_scope)
                found = [pair for kind, room in rooms.items() for pair in _headers(kind, room)]
                message["headers"] = [*message.get("headers", []), *found]
            await send(message)

        await self._app(scope, receive, limited if scope["type"] == "http" else send)


def _headers(kind: str, room: Room) -> list[tuple[bytes, bytes]]:
    values = (str(room.limit), str(room.remaining), duration(room.reset_s))
    names = [f"x-ratelimit-{what}-{kind}" for what in WHAT]
    return [(n.encode(), v.encode()) for n, v in zip(names, values, strict=True)]


def duration(seconds: float) -> str:
    """As OpenAI writes one: 6m0s, 1.5s, 0s."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
