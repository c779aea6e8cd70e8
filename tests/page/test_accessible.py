"""axe-core finds nothing serious on the page, in light and dark, wide and narrow."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done
from tests.page.test_chat_page import send
from tests.page.test_page_is_safe import MARKDOWN, MORE

AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),  # the browser's
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make web"),
]


async def serious(page: Page) -> list[str]:
    await page.evaluate(AXE.read_text())
    violations = await page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{found['id']}: {node['html']} {node['failureSummary']}"
        for found in violations
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 390)])
async def test_nothing_serious(serve: Serve, open_page: OpenPage, scheme: str, width: int) -> None:
    page = await open_page(
        await serve(FakeEngine(says(MARKDOWN + MORE))),
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
    )
    assert await serious(page) == []
    await send(page, "show me")
    await done(page)
    await expect(page.locator("pre .hljs-keyword").first).to_be_attached()
    await page.get_by_label("Answer again").click()
    await expect(page.get_by_role("group", name="Versions")).to_be_visible()
    await page.locator("article.assistant summary").click()
    await expect(page.get_by_role("button", name="The same again")).to_be_visible()
    assert await serious(page) == []
    for name in ("Settings", "demo"):
        await page.get_by_role("button", name=name).click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert await serious(page) == []
        await page.keyboard.press("Escape")
