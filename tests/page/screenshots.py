"""The pictures of docs/images, taken from the page before a real server with the demo model.

`python -m tests.page.screenshots [FOLDER]`. What the demo is asked it answers itself; what it is
too small to say (mathematics, calls of tools) is put into conversations as an import would.
"""

import asyncio
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.page.conftest import ARGUMENTS, NAMES

IMAGES = Path(__file__).parents[2] / "docs/images"
WIDE, PHONE = {"width": 1100, "height": 760}, {"width": 390, "height": 780}

ASKED = "Write a Python function that reverses a list."
TITLES = ("Plan a week in Lisbon", "Why is the sky blue?", "What is a paged cache?")
MATHEMATICS = r"""The attention of one head is

$$
\operatorname{softmax}\!\left(\frac{QK^\top}{\sqrt{d_k}}\right) V
$$

where $d_k$ is the width of a key. A cache keeps $K$ and $V$, so that token $n$ costs $O(n)$ and
not $O(n^2)$.[^1]

| part | size for one token |
|:--|--:|
| keys | $2 \cdot L \cdot K \cdot D$ bytes |
| values | the same |

[^1]: Of the whole sequence, that is.
"""
CALL = {"call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Lisbon", "days": 3}'}
STEPS = [
    {"role": "user", "content": "Do I need an umbrella in Lisbon this weekend?"},
    {
        "type": "reasoning",
        "content": [
            {"type": "reasoning_text", "text": "The forecast is not known to me: ask for it."}
        ],
    },
    {"type": "function_call", **CALL},
    {
        "type": "function_call_output",
        "call_id": "call_1",
        "output": '[{"day": "Sat", "rain_mm": 0}, {"day": "Sun", "rain_mm": 6.5}]',
    },
    {
        "role": "assistant",
        "content": "**Saturday** stays dry. On **Sunday** it rains: take one, and plan the walk "
        "along the river for Saturday.",
    },
]


async def serving(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(120):
        while True:
            try:
                if (await client.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)


async def fill(url: str) -> dict[str, str]:
    """Conversations and presets; the ids of some."""
    ids = {}
    said = {
        "How does attention work?": [
            {"role": "user", "content": "How does attention work, and what does a cache save?"},
            {"role": "assistant", "content": MATHEMATICS},
        ],
        "An umbrella in Lisbon": STEPS,
    }
    presets: dict[str, dict[str, Any]] = {
        "Translator": {"instructions": "Translate into French. Answer with nothing else."},
        "Careful": {"instructions": "Say what you are not sure of.", "temperature": 0},
    }
    async with httpx.AsyncClient(base_url=url) as client:
        for title in TITLES:
            await client.post("/v1/conversations", json={"metadata": {"title": title}})
        for title, items in said.items():
            body = {"metadata": {"title": title}, "items": items}
            ids[title] = (await client.post("/v1/conversations", json=body)).json()["id"]
        for name, settings in presets.items():
            body = {"name": name, "settings": settings}
            assert (await client.post("/v1/presets", json=body)).status_code == 200
    return ids


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.keyboard.press("Enter")
    await answered(page)


async def answered(page: Page) -> None:
    await expect(page.locator("article").last.locator(".facts")).to_be_attached(timeout=60_000)


async def take(page: Page, folder: Path, name: str) -> None:
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement?.blur(); document.fonts.ready")
    await page.screenshot(path=folder / f"{name}.png", animations="disabled")
    print(folder / f"{name}.png")


async def open_page(browser: Browser, url: str, **options: Any) -> Page:
    context = await browser.new_context(**({"viewport": WIDE} | options))
    page = await context.new_page()
    await page.goto(url)
    await expect(page.get_by_role("button", name="demo")).to_be_visible()
    return page


async def pictures(browser: Browser, url: str, folder: Path) -> None:
    ids = await fill(url)
    page = await open_page(browser, url, color_scheme="light")
    await ask(page, ASKED)
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_role("button", name="Done").click()
    await page.get_by_label("Answer again").click()
    await expect(page.get_by_role("group", name="Versions")).to_be_visible(timeout=60_000)
    await page.locator("article.assistant .facts > summary").click()
    await expect(page.get_by_role("button", name="The same again")).to_be_in_viewport()
    await expect(page.locator("pre .hljs-keyword").first).to_be_attached()
    await take(page, folder, "page")
    address = page.url
    await page.get_by_label("Search conversations").fill("cache")
    await expect(page.get_by_role("list", name="Found").get_by_role("link")).not_to_have_count(0)
    await take(page, folder, "page-search")
    await page.get_by_label("Search conversations").press("Escape")

    dark = await open_page(browser, address, color_scheme="dark")
    await expect(dark.locator("pre .hljs-keyword").first).to_be_attached()
    await take(dark, folder, "page-dark")
    await dark.goto(f"{url}#{ids['An umbrella in Lisbon']}")
    await expect(dark.locator("details.step")).to_have_count(2)
    for step in await dark.locator("details.step > summary").all():
        await step.click()
    await take(dark, folder, "page-steps")

    await page.goto(f"{url}#{ids['How does attention work?']}")
    await expect(page.locator(".katex")).not_to_have_count(0)
    await take(page, folder, "page-mathematics")
    async with page.expect_response("**/v1/presets?*"):
        await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Preset", exact=True).select_option(label="Careful")
    await take(page, folder, "page-presets")

    phone = await open_page(browser, address, viewport=PHONE, color_scheme="light", is_mobile=True)
    await expect(phone.locator("pre .hljs-keyword").first).to_be_attached()
    await take(phone, folder, "page-phone")


async def main(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    path = next(filter(None, map(shutil.which, NAMES)))
    with tempfile.TemporaryDirectory() as data:
        store = ("--store", f"sqlite:///{data}/pictures.db")
        command = ("-m", "llamastream", "serve", "--model", "demo", "--port", str(port), *store)
        server = await asyncio.create_subprocess_exec(sys.executable, *command)
        try:
            await serving(url)
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path=path, args=list(ARGUMENTS)
                )
                await pictures(browser, url, folder)
                await browser.close()
        finally:
            server.terminate()
            await server.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
