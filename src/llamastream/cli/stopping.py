"""How a server ends: SIGTERM lets open streams finish for a while, SIGINT or a second signal not.

What is stored and unfinished goes on at the next start, so nothing is lost either way.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from llamastream.generation import Answers, StoredAnswers

logger = logging.getLogger(__name__)

POLL_S = 0.05


class Stopping:
    """Brings the service to rest, while the port still answers: 503, and health not ready."""

    def __init__(self, answers: Answers, stored: StoredAnswers, timeout_s: float) -> None:
        self._answers = answers
        self._stored = stored
        self._timeout_s = timeout_s
        self._is_hurried = False

    async def run(self, *, is_patient: bool) -> None:
        """Refuse what is new, wait for what is open if patient, and end the rest."""
        self._answers.drain()
        await self._stored.hand_over()
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout_s
        logger.info("stopping with streams=%d", self._num_open())
        # Streams end in many places: to look is simpler than to be told.
        while is_patient and self._num_open() and not self._is_hurried and clock() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        if self._num_open():
            logger.info("ending streams=%d", self._num_open())
        # Its streams end with an error event, so that their connections can close.
        await self._answers.stop()

    def hurry(self) -> None:
        """Wait no longer."""
        self._is_hurried = True

    def _num_open(self) -> int:
        return self._answers.num_open + self._stored.num_live


class HttpServer(uvicorn.Server):
    """Tells when it listens, and ends normally on a signal, where uvicorn would raise it again."""

    def __init__(self, config: uvicorn.Config, stopping: Stopping) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._stop: asyncio.Task[None] | None = None
        self._is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._is_listening.set()

    async def listening(self) -> None:
        """Return when connections are accepted."""
        await self._is_listening.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop is None:
            self._stop = asyncio.create_task(self._stop_gently(sig == signal.SIGTERM))
        else:
            self._stopping.hurry()
            super().handle_exit(sig, frame)

    async def _stop_gently(self, is_patient: bool) -> None:
        try:
            await self._stopping.run(is_patient=is_patient)
        finally:
            self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
