"""Messages written to a call from outside of its task."""

import asyncio

from llamastream.jina.grpc_server import CallConnection


class Call:
    """Takes a message when the test says so."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.taken: list[bytes] = []
        self._gates: list[asyncio.Future[None]] = []

    async def write(self, message: bytes) -> None:
        self.begun.append(message)
        gate = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        await gate
        self.taken.append(message)

    async def take(self, error: Exception | None = None) -> None:
        gate = self._gates.pop(0)
        if error is None:
            gate.set_result(None)
        else:
            gate.set_exception(error)
        await asyncio.sleep(0)


async def test_messages_of_one_token_leave_one_after_the_other_and_begin_at_once() -> None:
    call = Call()
    connection = CallConnection(call)  # type: ignore[arg-type]
    assert not connection.lags
    connection.write_soon(b"1")
    connection.write_soon(b"2")
    assert call.begun == [b"1"]
    assert connection.lags
    await call.take()
    assert (call.begun, call.taken) == ([b"1", b"2"], [b"1"])
    await call.take()
    await connection.idle()
    assert call.taken == [b"1", b"2"]
    assert not connection.lags


async def test_a_call_that_has_ended_is_offered_nothing_more() -> None:
    call = Call()
    connection = CallConnection(call)  # type: ignore[arg-type]
    connection.write_soon(b"1")
    connection.write_soon(b"2")
    await call.take(RuntimeError("the call has ended"))
    await connection.idle()
    assert call.begun == [b"1"]
    assert connection.lags
