"""The server is killed in the middle of an answer, and the page finishes it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.page.conftest import OpenPage
from tests.page.test_branches import done, edit
from tests.page.test_chat_page import answers, questions, send, stored_texts

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

TEXT = "Two roads diverged 😀 in a yellow wood, and sorry I could not travel both."
ROOT = Path(__file__).parents[2]

Start = Callable[[int], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest_asyncio.fixture(loop_scope="session")
async def start(port: int, tmp_path: Path) -> AsyncIterator[Start]:
    """`await start(num_steps)`: a server that stalls after that many tokens, once it listens."""
    processes: list[asyncio.subprocess.Process] = []

    async def started(num_steps: int) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "tests.page.stalling_server", str(port), str(tmp_path))
        env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        process = await asyncio.create_subprocess_exec(*command, str(num_steps), env=env, cwd=ROOT)
        processes.append(process)
        async with asyncio.timeout(30):
            while True:
                assert process.returncode is None
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return process

    yield started
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


async def hurry(page: Page) -> None:
    """It tries again now, as when the network is back, and not after its pause."""
    await page.evaluate("dispatchEvent(new Event('online'))")


async def begin(
    start: Start, url: str, open_page: OpenPage
) -> tuple[asyncio.subprocess.Process, Page]:
    """A server that stalls in the middle of an answer, and the page that shows what came."""
    process = await start(9)
    page = await open_page(url)
    await send(page, TEXT)
    await expect(answers(page)).to_have_text(TEXT[:9])
    return process, page


async def test_a_killed_server_loses_and_repeats_nothing(
    start: Start, port: int, open_page: OpenPage
) -> None:
    url = f"http://127.0.0.1:{port}/"
    first, page = await begin(start, url, open_page)
    await kill(first)
    await expect(page.get_by_role("status")).to_have_text("Connection lost, resuming…")
    second = await start(20)
    await hurry(page)
    await expect(answers(page)).to_have_text(TEXT[:26])  # the emoji is four tokens
    await expect(page.get_by_role("status")).to_be_hidden()
    await kill(second)
    await start(1000)
    await hurry(page)
    await expect(answers(page)).to_have_text([TEXT])
    await expect(page.get_by_label("Stop")).to_be_hidden()
    await expect(questions(page)).to_have_text([TEXT])
    assert await stored_texts(url) == [TEXT, TEXT]


async def test_a_page_that_was_away_finds_the_rest(
    start: Start, port: int, open_page: OpenPage
) -> None:
    url = f"http://127.0.0.1:{port}/"
    first, page = await begin(start, url, open_page)
    address = page.url
    await page.close()
    await kill(first)
    await start(1000)
    again = await open_page(address)
    await expect(answers(again)).to_have_text([TEXT])
    await expect(again.get_by_label("Stop")).to_be_hidden()
    assert await stored_texts(url) == [TEXT, TEXT]


async def test_a_branch_survives_too(start: Start, port: int, open_page: OpenPage) -> None:
    first = await start(9)
    page = await open_page(f"http://127.0.0.1:{port}/")
    await send(page, "hi")
    await done(page)
    await edit(page, 0, TEXT)
    await expect(answers(page)).to_have_text(TEXT[:6])
    await kill(first)
    await start(1000)
    await hurry(page)
    await expect(answers(page)).to_have_text([TEXT])
    await expect(page.get_by_role("group", name="Versions")).to_have_text("2 / 2")
    await page.get_by_label("Previous version").click()
    await expect(answers(page)).to_have_text(["hi"])


async def test_a_stop_reaches_a_server_that_was_away(
    start: Start, port: int, open_page: OpenPage
) -> None:
    url = f"http://127.0.0.1:{port}/"
    first, page = await begin(start, url, open_page)
    await kill(first)
    await expect(page.get_by_role("status")).to_have_text("Connection lost, resuming…")
    await page.get_by_label("Stop").click()
    await start(0)
    await hurry(page)
    await expect(page.locator("article.assistant .note")).to_contain_text("stopped")
    assert await stored_texts(url) == [TEXT, TEXT[:9]]
