"""A server process that can be killed and started again on the same port and database."""

import asyncio
import os
import random
import re
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import psutil

ROOT = Path(__file__).parents[2]
MODEL = ROOT.parent / "shared" / "data" / "stories260K"
MODEL_NAME = "stories260K"
STORIES_OPTIONS = ("--dtype", "float32", "--chat-template", "llama2", "--threads", "1")
START_LIMIT_S = 60.0
PORTS = random.SystemRandom()


@dataclass
class Server:
    """`folder` holds database and log. `options` are further flags of `serve` of `module`."""

    folder: Path
    options: tuple[str, ...] = ()
    model: str = str(MODEL)
    module: str = "llamastream"
    port: int = field(default_factory=lambda: free_port())
    grpc_port: int = field(default_factory=lambda: free_port())
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when it takes requests."""
        command = [
            *(sys.executable, "-m", self.module, "serve"),
            *("--model", self.model, "--port", str(self.port)),
            *("--grpc-port", str(self.grpc_port), "--data-dir", str(self.folder)),
            *(STORIES_OPTIONS if self.model == str(MODEL) else ()),
            *self.options,
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, env=env, cwd=ROOT
            )
        async with asyncio.timeout(START_LIMIT_S), httpx.AsyncClient() as client:
            while not await self.is_ready(client):
                if self.process.returncode is not None:
                    raise RuntimeError(f"the server ended: see {self.folder / 'log'}")
                await asyncio.sleep(0.02)

    async def stop(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal, and return when the process has ended."""
        if self.process is None:
            return  # it was never started
        if self.process.returncode is None:
            self.process.send_signal(signal_number)
        await self.process.wait()

    async def ended(self) -> None:
        """Return when the process has ended, by whatever."""
        assert self.process is not None
        await self.process.wait()

    def send(self, signal_number: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal_number)

    def num_resumed(self) -> int:
        """Responses that all starts so far found in progress."""
        found = re.findall(r"resuming responses=(\d+)", (self.folder / "log").read_text())
        return sum(map(int, found))

    def rss_bytes(self) -> int:
        return int(self._psutil().memory_info().rss)

    def peers(self) -> set[int]:
        """The ports at the other ends of its open connections."""
        found = self._psutil().net_connections(kind="tcp")
        return {c.raddr.port for c in found if c.raddr}

    def _psutil(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    async def is_ready(self, client: httpx.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/health")).status_code == 200
        except httpx.TransportError:  # also of one that is stopped
            return False


def free_port() -> int:
    """None of those that the system gives to outgoing connections: before its server starts, such a
    one could have it."""
    while True:
        port = PORTS.randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
