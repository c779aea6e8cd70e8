"""jina's own environment, and the client in it."""

import asyncio
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.jina_servers import Readiness

ROOT = Path(__file__).parents[2]
JINA_PYTHON = ROOT / ".venv-jina" / "bin" / "python"


@pytest.fixture(scope="session")
def jina_python() -> Path:
    """The interpreter of jina's environment, which pins what ours does not."""
    if not JINA_PYTHON.exists():
        pytest.skip("jina's environment is not built: run `make test-jina`")
    return JINA_PYTHON


class StockClient:
    """An unmodified jina.Client in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def ask(self, protocol: str, port: int, **question: Any) -> dict[str, Any]:
        """`ready`, and `answers`: token_ids, texts and error of each stream."""
        full = {
            "protocol": protocol,
            "port": port,
            "n": 1,
            "document": {"prompt": "Hi", "max_tokens": 5},
            "leave_after": None,
        } | question
        return await asyncio.to_thread(self._ask, full)

    async def one(self, protocol: str, port: int, **question: Any) -> dict[str, Any]:
        """The answer of a single stream."""
        (answer,) = (await self.ask(protocol, port, **question))["answers"]
        return dict(answer)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question) + "\n")
        stdin.flush()
        for line in stdout:
            if line.startswith("ANSWER "):
                return dict(json.loads(line.removeprefix("ANSWER ")))
        raise AssertionError("the client process ended")


@pytest.fixture(scope="session")
def stock_client(jina_python: Path) -> Iterator[StockClient]:
    """Importing jina takes seconds, so that one process asks all questions."""
    process = subprocess.Popen(
        [jina_python, Path(__file__).parent / "stock_client.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield StockClient(process)
        assert process.stdin is not None
        process.stdin.close()


def free_port() -> int:
    """A port that nobody listens on. Jina takes none by itself that it would tell us."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def jina_environment() -> dict[str, str]:
    """Environment variables with which jina's interpreter finds our package and our doubles."""
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JINA_LOG_LEVEL": "CRITICAL"}


@contextmanager
def running(python: Path, *command: str | Path) -> Iterator[None]:
    """A server script in jina's environment, from its READY until its stdin is closed."""
    process = subprocess.Popen(
        [python, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=jina_environment(),
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("READY"):
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(seen))
        yield
        process.stdin.close()


@pytest.fixture
def ready() -> Readiness:
    return Readiness()
