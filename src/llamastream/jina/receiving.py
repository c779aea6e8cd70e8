"""How much of a call is received, and when. grpc hands over whole messages; until one is asked for,
it holds no more than a window of HTTP/2 (64 KiB) of it.

So nothing is asked for from a caller whose key is wrong. A caller without one may have it in the
document: of such, the messages of NUM_STRANGERS are received at a time, and the oldest that is not
complete gives way to the next. A small one came with its call, so that it does not wait.
"""

import asyncio
import ctypes
from typing import Any, TypeAlias

import grpc

from llamastream.errors import InvalidRequest, RequestTimeout, Unauthorized
from llamastream.jina.keys import KEYLESS_BYTES, too_large_for_a_key

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic for type checkers only

NUM_STRANGERS = 2  # each up to the largest message: that much memory anybody may take
STRANGERS_TIMEOUT_S = 10.0
TIMEOUT_S = 60.0
TRIM_S = 0.1
# glibc's; elsewhere the allocator does as it likes.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)


class Receiving:
    """Of all calls of a server."""

    def __init__(self) -> None:
        self._reads: set[asyncio.Future[Any]] = set()
        self._strangers: dict[asyncio.Future[Any], asyncio.Future[None]] = {}  # -> to give way
        self._is_trimming = False

    async def message(self, context: Context) -> bytes:
        """That of a call that may be answered. Raises InvalidRequest, RequestTimeout."""
        return await _result(self._read(context), None, TIMEOUT_S)

    async def strangers_message(self, context: Context) -> bytes:
        """That of a caller whose key is not known, if it has <= KEYLESS_BYTES.

        Raises Unauthorized, InvalidRequest, RequestTimeout.
        """
        if len(self._strangers) >= NUM_STRANGERS:
            oldest = next(iter(self._strangers))
            self._strangers.pop(oldest).set_result(None)
        reading = self._read(context)
        way = self._strangers[reading] = asyncio.get_running_loop().create_future()
        try:
            message = await _result(reading, way, STRANGERS_TIMEOUT_S)
            if len(message) <= KEYLESS_BYTES:
                return message
            raise too_large_for_a_key()
        except Unauthorized:
            self._give_back_soon()
            raise
        finally:
            self._strangers.pop(reading, None)

    def _read(self, context: Context) -> asyncio.Future[Any]:
        """Begin to receive. It is never cancelled, which would keep what came for ever
        (grpcio 1.85, `execute_batch`): it ends when its call does."""
        reading = asyncio.ensure_future(context.read())
        self._reads.add(reading)
        reading.add_done_callback(self._reads.discard)
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return reading

    def _give_back_soon(self) -> None:
        """Return to the system what was received in vain: the allocator would keep it."""
        if not self._is_trimming:
            self._is_trimming = True
            asyncio.get_running_loop().call_later(TRIM_S, self._trim)

    def _trim(self) -> None:
        self._is_trimming = False
        asyncio.get_running_loop().run_in_executor(None, _malloc_trim, 0)


async def _result(
    reading: asyncio.Future[Any], way: asyncio.Future[None] | None, timeout_s: float
) -> bytes:
    """What was read, unless that takes too long, or is to give way."""
    waited = [reading] if way is None else [reading, way]
    await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if not reading.done():
        if way is not None and way.done():
            raise too_large_for_a_key()
        raise RequestTimeout(f"The message must come within {timeout_s:.0f} s.")
    message = reading.result()
    if not isinstance(message, bytes):
        raise InvalidRequest("The call ended without a message.")
    return message
