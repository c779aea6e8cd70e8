"""The chat page in a real browser, on a server whose engine the test scripts."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from llamastream.api.http.page import is_built
from llamastream.config import ServeSettings
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
VIEW = {"width": 1000, "height": 700}

Serve = Callable[..., Awaitable[str]]
OpenPage = Callable[..., Awaitable[Page]]


expect.set_options(timeout=30_000)  # the machine may be busy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    if not is_built():
        pytest.skip("the chat page is not built: make web")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncIterator[OpenPage]:
    """`await open_page(url)`: a page in a browser that remembers nothing. What it writes on its
    console, or asks of another host, fails the test."""
    complaints: list[str] = []
    contexts = []

    async def opened(url: str, **options: object) -> Page:
        context = await browser.new_context(**({"viewport": VIEW} | options))
        contexts.append(context)
        page = await context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        origin = "/".join(url.split("/")[:3])
        page.on("request", lambda request: check_host(request.url, origin))
        await page.goto(url)
        return page

    def check_host(asked: str, origin: str) -> None:
        if not asked.startswith(f"{origin}/"):
            complaints.append(f"request: {asked}")

    yield opened
    for context in contexts:
        await context.close()
    # The browser itself reports every failed request there.
    assert [c for c in complaints if "Failed to load resource" not in c] == []


@pytest_asyncio.fixture(loop_scope="session")
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await serve(engine, settings)`: the address of a running server with a store."""
    async with AsyncExitStack() as stack:

        async def start(engine: FakeEngine, settings: ServeSettings | None = None) -> str:
            service = make_service(engine)
            responses = make_responses(service, tmp_path)
            url = await stack.enter_async_context(running_server(service, settings, responses))
            return f"{url}/"

        yield start
