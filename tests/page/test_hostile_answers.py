"""Whatever a model writes: nothing of it runs, leaves the origin, or stops the page."""

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.page.conftest import OpenPage, Serve
from tests.page.hostile import ANSWERS, CODE, DEEP, HTML, LINKS, MATHS, TABLES
from tests.page.test_chat_page import answers, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

FORBIDDEN = (
    "img, script, iframe, style, object, embed, form, base, link, animate, mglyph, details, "
    "[onerror], [onload], [onclick], [onmouseover], [id], [data-onclick], "
    "a:not([href^='https://']):not([href^='http://']):not([href^='mailto:'])"
)


async def check_harmless(page: Page) -> None:
    await expect(answers(page).locator(FORBIDDEN)).to_have_count(0)
    assert await page.evaluate("window.ran") is None
    depth = """all => Math.max(...all.map((leaf) => {
        let depth = 0;
        for (let node = leaf; node; node = node.parentElement) depth++;
        return depth;
    }))"""
    assert await answers(page).locator("p, li, blockquote, em").evaluate_all(depth) < 100


async def test_answers_that_are_opened(serve: Serve, open_page: OpenPage) -> None:
    assert len(ANSWERS) >= 30
    url = await serve(FakeEngine(says("still here"), max_model_len=2**20))
    async with httpx.AsyncClient(base_url=url) as client:
        id = (await client.post("v1/conversations", json={})).json()["id"]
        for text in ANSWERS:
            item = {"role": "assistant", "content": [{"type": "output_text", "text": text}]}
            added = await client.post(f"v1/conversations/{id}/items", json={"items": [item]})
            assert added.status_code == 200
    page = await open_page(f"{url}#{id}")
    await expect(answers(page)).to_have_count(len(ANSWERS))
    for k, text in enumerate(ANSWERS):
        if text in DEEP:
            await expect(answers(page).nth(k)).to_contain_text("deep")
    await expect(answers(page).locator(".katex").first).to_be_attached()
    await check_harmless(page)
    await send(page, "and you?")
    await expect(answers(page).last).to_have_text("still here")


async def test_answers_while_they_are_written(serve: Serve, open_page: OpenPage) -> None:
    text = "\n\n".join([*HTML, *LINKS, *CODE[:3], *MATHS[:3], *TABLES, DEEP[0]])
    engine = FakeEngine(says(text), manual=True, max_model_len=2**20, tokens_per_step=50)
    page = await open_page(await serve(engine))
    await send(page, "go")
    for _ in range(0, len(text), 50):
        engine.allow(1)
    await expect(answers(page)).to_contain_text("deep")
    engine.allow(10)
    await expect(page.get_by_label("Stop")).to_be_hidden()
    await check_harmless(page)


async def test_a_long_answer_costs_what_its_tokens_cost(serve: Serve, open_page: OpenPage) -> None:
    """Counted is what the page makes and removes, not how long that takes."""
    block = (
        "Some **words** of a sentence, with `code` and more of it.\n\n- item\n\n```\nx = 1\n```\n\n"
    )
    text = block * 120  # 10,000 tokens
    engine = FakeEngine(says(text), manual=True, max_model_len=2**20)
    page = await open_page(await serve(engine))
    await page.evaluate(
        """() => {
            window.made = 0;
            new MutationObserver((records) => {
                for (const { addedNodes } of records) window.made += addedNodes.length;
            }).observe(document.getElementById("messages"), { childList: true, subtree: true });
        }"""
    )
    await send(page, "go")
    made = []
    for part in (1, 2, 3, 4):
        for _ in range(60):
            engine.allow(len(text) // 240)
        await expect(answers(page).get_by_text("x = 1")).to_have_count(30 * part)
        made.append(await page.evaluate("window.made"))
    engine.allow(100)
    await expect(page.get_by_label("Stop")).to_be_hidden()
    total = await answers(page).evaluate("e => e.querySelectorAll('*').length")
    assert made[3] - made[2] <= 1.3 * (made[1] - made[0]) + 50, made
    assert made[3] < 12 * total, (made, total)
