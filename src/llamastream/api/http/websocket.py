"""uvicorn's WebSocket protocol: what it does not give an application, a way to send outside of a
task, and whether a reader lags."""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from llamastream.api.http.connections import connections_of


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Gives each socket, in its state, the connection it came on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections_of(self.app_state)
        self._soon: list[bytes] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.close(self.transport)
        super().connection_lost(exc)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            self.scope["state"]["connection"] = self  # its task has not begun

    def handle_ping(self) -> None:
        """Answer it, unless the peer takes nothing: the answers would fill the memory."""
        if self.lags:
            self.conn.data_to_send()
        else:
            super().handle_ping()

    @property
    def lags(self) -> bool:
        """True while the client has not taken enough of what was written, or is gone."""
        return self.conn.state is not State.OPEN or not self.writable.is_set()

    def write_soon(self, body: bytes) -> None:
        """Send a text message before anything later. Those of one step leave in one write."""
        if not self._soon:
            self.loop.call_soon(self._write)
        self._soon.append(body)

    async def send(self, message: Any) -> None:
        self._write()
        await super().send(message)

    def _write(self) -> None:
        messages, self._soon = self._soon, []
        if messages and self.conn.state is State.OPEN:
            for body in messages:
                self.conn.send_text(body)
            self.transport.write(b"".join(self.conn.data_to_send()))
