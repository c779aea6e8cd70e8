"""uvicorn's WebSocket protocol: what it does not give an application, a way to send outside of a
task, and whether a reader lags."""

import sys
from asyncio import BaseTransport
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import State

from llamastream.api.http.connections import connections_of
from llamastream.api.http.inlet import Inlet

PIECE_BYTES = 4096  # that are parsed at once: some hundred frames
# Frames that are no messages: so many at once, so many a second, and one for so many bytes.
MAX_FRAMES, FRAMES_PER_S, BYTES_PER_FRAME = 1000, 20, 64
NO_UTF8, POLICY_VIOLATION = 1007, 1008


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Gives each socket, in its state, the connection it came on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections = connections_of(self.app_state)
        self._soon: list[bytes] = []
        self._num_spare: float = MAX_FRAMES
        self._counted_s = self.loop.time()

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._inlet = Inlet(
            self.transport,
            super().data_received,
            piece_bytes=self._piece_bytes,
            is_held=lambda: self.read_paused or self._is_opening,
            one_a_turn=True,
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.close(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inlet.take(data)

    @property
    def _is_opening(self) -> bool:
        """Whether it was asked for and is not accepted. Frames are not looked at until then."""
        return self.handshake_initiated and not self.handshake_complete

    def _piece_bytes(self) -> int:
        """The head was bounded before it came here."""
        return PIECE_BYTES if self.handshake_initiated else sys.maxsize

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._inlet.update()
        return message

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
        self._count(0)

    def handle_pong(self, event: Frame) -> None:
        super().handle_pong(event)
        self._count(0)

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        self._count(len(event.data))

    def send_receive_event_to_app(self) -> None:
        """A whole message. uvicorn would log a traceback for one that is no text."""
        self.frames = [b"".join(self.frames)]
        try:
            self.frames[0].decode()
        except UnicodeDecodeError:
            if self.curr_msg_data_type == "text":
                self._fail(NO_UTF8, "the message is not UTF-8")
                return
        super().send_receive_event_to_app()

    def _fail(self, code: int, reason: str) -> None:
        if not self.close_sent and self.conn.state is State.OPEN:
            self.frames = []
            self.conn.send_close(code, reason)
            self.handle_parser_exception()

    def _count(self, num_bytes: int) -> None:
        """Of frames that are no message: who sends nothing but those, and faster than anybody has
        a use for, is closed."""
        now = self.loop.time()
        gained = (now - self._counted_s) * FRAMES_PER_S + num_bytes / BYTES_PER_FRAME
        self._num_spare = min(MAX_FRAMES, self._num_spare + gained) - 1
        self._counted_s = now
        if self._num_spare < 0:
            self._fail(POLICY_VIOLATION, "too many small frames")

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
        if message["type"] == "websocket.accept":
            self._inlet.update()

    def _write(self) -> None:
        messages, self._soon = self._soon, []
        if messages and self.conn.state is State.OPEN:
            for body in messages:
                self.conn.send_text(body)
            self.transport.write(b"".join(self.conn.data_to_send()))
