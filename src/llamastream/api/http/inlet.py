"""What came on a connection and is not parsed yet.

A read brings up to 256 KiB, and libuv does 32 of them before it looks at another connection. In
these fit a million tiny requests or frames: half a minute of a parser's work, in which nobody else
is served. So it is handed on in pieces, and nothing more is read meanwhile.
"""

import asyncio
from collections.abc import Callable


class Inlet:
    """Between a transport and what parses."""

    def __init__(
        self,
        transport: asyncio.Transport,
        parse: Callable[[bytes], None],
        *,
        piece_bytes: Callable[[], int],
        is_held: Callable[[], bool],
        one_a_turn: bool,
    ) -> None:
        """piece_bytes: what may be parsed next at once. is_held: whether nothing may be parsed or
        read. one_a_turn: of the event loop; else pieces follow each other until they are held."""
        self._transport = transport
        self._parse = parse
        self._piece_bytes = piece_bytes
        self._one_a_turn = one_a_turn
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._is_held = is_held
        self._next: asyncio.Handle | None = None

    def take(self, data: bytes) -> None:
        """What was read."""
        self._unread += data
        if self._next is None:
            self._hand_on()
        self._set_reading()

    def put_back(self, data: bytes) -> None:
        """Before all that is to come."""
        self._unread = data + self._unread

    def rest(self) -> bytes:
        """All that is left, for somebody else."""
        unread, self._unread = self._unread, b""
        return unread

    def update(self) -> None:
        """`is_held` may have changed."""
        if self._unread and self._next is None and not self._is_held():
            self._next = self._loop.call_soon(self._hand_on)
        self._set_reading()

    def _hand_on(self) -> None:
        self._next = None
        while self._unread and not self._is_held() and not self._transport.is_closing():
            size = self._piece_bytes()
            piece, self._unread = self._unread[:size], self._unread[size:]
            self._parse(piece)
            if self._one_a_turn and self._unread and not self._is_held():
                self._next = self._loop.call_soon(self._hand_on)
                break
        self._set_reading()

    def _set_reading(self) -> None:
        if self._transport.is_closing():
            return
        wanted = not self._is_held() and not self._unread
        if wanted and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not wanted and self._transport.is_reading():
            self._transport.pause_reading()
