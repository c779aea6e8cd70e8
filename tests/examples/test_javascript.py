"""The JavaScript snippet, run by Node."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from llamastream.errors import InternalError
from tests.doubles.jina_servers import http_port
from tests.doubles.scripted_answers import ScriptedAnswers, Step

SNIPPET = Path(__file__).parents[2] / "examples" / "stream.mjs"


async def run(*script: Step) -> tuple[int | None, str, str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    async with http_port(ScriptedAnswers(*script), lambda: True) as port:
        process = await asyncio.create_subprocess_exec(
            node,
            SNIPPET,
            f"http://127.0.0.1:{port}",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
    return process.returncode, stdout.decode(), stderr.decode()


async def test_prints_the_exact_text() -> None:
    assert (await run("Hé", "llo 🙂", " event: end\r\n\r\n"))[:2] == (
        0,
        "Héllo 🙂 event: end\r\n\r\n\n",
    )


async def test_throws_the_error_in_the_middle() -> None:
    code, _, stderr = await run("a", InternalError("the engine broke"))
    assert code == 1
    assert "the engine broke" in stderr
