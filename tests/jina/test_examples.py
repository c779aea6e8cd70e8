"""The example programs that need jina, as they stand, on the article's port."""

import asyncio
import socket
import subprocess
from pathlib import Path

import pytest

from tests.doubles.jina_servers import Readiness, grpc_port
from tests.doubles.scripted_answers import ScriptedAnswers
from tests.jina.conftest import ROOT, jina_environment

EXAMPLES = ROOT / "examples"
ARTICLES_PORT = 12345


@pytest.fixture(autouse=True)
def _port_is_free() -> None:
    try:
        socket.create_server(("127.0.0.1", ARTICLES_PORT)).close()
    except OSError:
        pytest.skip(f"port {ARTICLES_PORT}, which the examples name, is in use here")


async def run(python: Path, script: str, said: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        python,
        EXAMPLES / script,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=jina_environment(),
    )
    stdout, _ = await process.communicate(said.encode())
    assert process.returncode == 0
    return stdout.decode()


async def test_client_prints_the_answer(jina_python: Path, ready: Readiness) -> None:
    service = ScriptedAnswers("Par", "is 🙂", ".")
    async with grpc_port(service, ready, port=ARTICLES_PORT):
        assert await run(jina_python, "client.py") == "Paris 🙂.\n"
    assert service.requests[0].sampling.max_tokens == 200


async def test_chat_client_keeps_the_log(jina_python: Path, ready: Readiness) -> None:
    service = ScriptedAnswers("Hello", " Bob.")
    async with grpc_port(service, ready, port=ARTICLES_PORT):
        shown = await run(jina_python, "chat_client.py", "I am Bob.\nWho am I?\n")
    assert shown == "> Hello Bob.\n" * 2 + "> "
    turns = [(message.role, message.content) for message in service.requests[1].prompt]
    assert turns[1:] == [
        ("user", "I am Bob."),
        ("assistant", "Hello Bob."),
        ("user", "Who am I?"),
    ]
