"""The chat page in a real browser, on a server whose engine the test scripts."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from llamastream.api.http.page import is_built
from llamastream.config import ServeSettings
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service
from tests.doubles.tokenizer import CHATML

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
)
VIEW = {"width": 1000, "height": 700}

Serve = Callable[..., Awaitable[str]]
OpenPage = Callable[..., Awaitable[Page]]


expect.set_options(timeout=30_000)  # the machine may be busy


class Pages:
    """Pages of one browser. A plain one is used by test after test: a new one takes as long as a
    short test, since the browser starts a process for it."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._spare: list[Page] = []

    async def take(self, **options: Any) -> Page:
        if self._spare and not options:
            return self._spare.pop()
        usual = {"viewport": VIEW, "reduced_motion": "reduce"}
        context = await self._browser.new_context(**(usual | options))
        return await context.new_page()

    async def give(self, page: Page, origin: str) -> None:
        """Take a plain page back, with nothing left on it."""
        if self._spare or page.is_closed() or not page.url.startswith(f"{origin}/"):
            return await page.context.close()
        await page.unroute_all(behavior="ignoreErrors")
        await page.context.set_offline(False)
        for other in page.context.pages:
            if other is not page:
                await other.close()
        await page.evaluate("localStorage.clear(); sessionStorage.clear()")
        await page.goto("about:blank")
        self._spare.append(page)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pages() -> AsyncIterator[Pages]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is installed")
    if not is_built():
        pytest.skip("the chat page is not built: make web")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield Pages(browser)
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(pages: Pages) -> AsyncIterator[OpenPage]:
    """`await open_page(url)`: a page in a browser that remembers nothing. What it writes on its
    console, or asks of another host, fails the test."""
    complaints: list[str] = []
    opened: list[tuple[Page, str, bool]] = []
    listeners: dict[str, Callable[[Any], None]] = {
        "console": lambda message: complaints.append(f"console: {message.text}"),
        "pageerror": lambda error: complaints.append(f"error: {error}"),
        "dialog": lambda dialog: complaints.append(f"dialog: {dialog.message}"),
        "request": lambda request: check_host(request.url),
    }

    def check_host(asked: str) -> None:
        if not any(asked.startswith(f"{origin}/") for _, origin, _ in opened):
            complaints.append(f"request: {asked}")

    async def open_one(url: str, **options: object) -> Page:
        page = await pages.take(**options)
        opened.append((page, "/".join(url.split("/")[:3]), not options))
        for event, listener in listeners.items():
            page.on(event, listener)  # type: ignore[call-overload]
        await page.goto(url)
        return page

    yield open_one
    for page, _, _ in opened:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
    for page, origin, is_plain in opened:
        await (pages.give(page, origin) if is_plain else page.context.close())
    # The browser itself reports every failed request there.
    assert [c for c in complaints if "Failed to load resource" not in c] == []


@pytest_asyncio.fixture(loop_scope="session")
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """`await serve(engine, settings)`: the address of a running server with a store."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: FakeEngine,
            settings: ServeSettings | None = None,
            template: str = CHATML,
        ) -> str:
            service = make_service(engine, template=template)
            responses = make_responses(service, tmp_path)
            url = await stack.enter_async_context(running_server(service, settings, responses))
            return f"{url}/"

        yield start
