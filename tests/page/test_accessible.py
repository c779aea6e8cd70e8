"""What a screen reader finds: axe-core has nothing serious to say of any view, every control has a
name, and an answer is spoken once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done
from tests.page.test_chat_page import answers, send
from tests.page.test_page_is_safe import MARKDOWN, MORE
from tests.page.test_saved import fill

AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
# Roles of what can be used.
CONTROLS = {
    *("button", "link", "textbox", "searchbox", "combobox", "checkbox", "meter"),
    *("dialog", "navigation", "region", "list", "group", "DisclosureTriangle"),
}

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),  # the browser's
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make web"),
]


async def serious(page: Page) -> list[str]:
    if await page.evaluate("typeof axe") == "undefined":
        await page.evaluate(AXE.read_text())
    violations = await page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{found['id']}: {node['html']} {node['failureSummary']}"
        for found in violations
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


async def nameless(page: Page) -> list[str]:
    """Controls and landmarks of the accessibility tree that a screen reader could not tell."""
    session = await page.context.new_cdp_session(page)
    nodes = (await session.send("Accessibility.getFullAXTree"))["nodes"]
    await session.detach()
    values = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes]
    shown = [(role, name) for role, name in values if role in CONTROLS]
    assert shown, "the tree is empty"
    unnamed = {"list", "group"}  # those of a text, and what folds
    return [role for role, name in shown if not name.strip() and role not in unnamed]


async def views(page: Page) -> AsyncIterator[str]:
    """One view of the page after another."""
    is_narrow = await page.get_by_role("main").get_by_label("Conversations").is_visible()
    yield "nothing said yet"
    await page.evaluate("location.hash = document.querySelector('#conversations a').hash")
    await page.get_by_label("Previous version").click()
    for step in await page.locator("article details.step > summary").all():
        await step.click()
    yield "versions and steps"
    await page.get_by_label("Edit").first.click()
    yield "a message that is edited"
    await page.keyboard.press("Escape")
    await page.evaluate("history.pushState(null, '', location.pathname)")
    await page.reload()
    await send(page, "show me")
    await done(page)
    await expect(page.locator("pre .hljs-keyword").first).to_be_attached()
    await page.locator("article.assistant .facts summary").click()
    await expect(page.get_by_role("button", name="The same again")).to_be_visible()
    yield "an answer"
    for name in ("Settings", "demo", "Save this conversation"):
        await page.get_by_role("button", name=name).click()
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_be_visible()
        for more in await dialog.locator("details > summary").all():
            await more.click()
        yield name
        await page.keyboard.press("Escape")
    await page.locator("#context").click()
    yield "ways out of a full context"
    await page.keyboard.press("Escape")
    if is_narrow:
        await page.get_by_role("main").get_by_label("Conversations").click()
    await page.get_by_role("button", name="Keyboard shortcuts").click()
    yield "shortcuts"
    await page.keyboard.press("Escape")
    await page.get_by_label("Search conversations").fill("show")
    await expect(page.get_by_role("list", name="Found").get_by_role("link")).to_have_count(1)
    yield "what was found"
    await page.keyboard.press("Escape")
    await page.get_by_role("link", name="show me").focus()
    await page.get_by_role("button", name="Delete “show me”").click()
    await expect(page.get_by_role("button", name="Undo")).to_be_visible()
    yield "a deletion that can be undone"
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("article").last.locator(".facts")).to_be_attached()
    await page.evaluate("Object.defineProperty(navigator, 'onLine', { value: false })")
    await page.context.set_offline(True)
    await page.get_by_label("Message", exact=True).fill("lost")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("offline")
    yield "an error"
    await page.context.set_offline(False)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 390)])
async def test_no_view_keeps_anybody_out(
    serve: Serve, open_page: OpenPage, scheme: str, width: int
) -> None:
    url = await serve(FakeEngine(says(MARKDOWN + MORE)))
    await fill(url)
    page = await open_page(
        url,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    await expect(page.get_by_role("button", name="demo")).to_be_visible()
    async for view in views(page):
        assert await serious(page) == [], view
        assert await nameless(page) == [], view


LANDMARKS = """
- navigation "Conversations":
  - button "New conversation"
  - searchbox "Search conversations"
  - list "All conversations":
    - listitem:
      - heading "Today" [level=2]
    - listitem:
      - link "hello"
      - button "Delete “hello”"
  - button "Export all"
  - button "Import"
  - button "Keyboard shortcuts"
- main:
  - heading "llamastream" [level=1]
  - textbox "Title of the conversation"
  - button "demo"
  - button "Save this conversation"
  - button "Settings"
  - region "Conversation":
    - article:
      - heading "You" [level=2]
      - text: hello
      - button "Copy"
      - button "Edit"
    - article:
      - heading "Answer" [level=2]
      - paragraph: hello
      - button "Copy"
      - button "Answer again"
      - group: /6 tokens/
  - button "Add text files"
  - textbox "Message"
  - button /\\d+ %.* tokens of context used/
  - button "Send" [disabled]
"""


async def test_the_page_reads_in_order(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await send(page, "hello")
    await done(page)
    await expect(page.locator("#context")).to_be_visible()
    await expect(page.locator("body")).to_match_aria_snapshot(LANDMARKS)


async def test_an_answer_is_spoken_once_when_it_is_whole(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(says("one two three"), manual=True)
    page = await open_page(await serve(engine))
    await page.evaluate(
        """() => {
            window.spoken = [];
            new MutationObserver((records) => {
                for (const { target } of records) {
                    const place = target instanceof Element ? target : target.parentElement;
                    const live = place.closest("[aria-live], [role=status]");
                    if (live?.textContent) window.spoken.push(live.textContent);
                }
            }).observe(document.body, { childList: true, characterData: true, subtree: true });
        }"""
    )
    await send(page, "count")
    for length in (3, 7):
        engine.allow(4 if length == 7 else 3)
        await expect(answers(page)).to_have_text("one two three"[:length])
        await expect(page.locator("article.live")).to_have_attribute("aria-busy", "true")
    assert await page.evaluate("window.spoken") == []
    engine.allow(100)
    await expect(page.locator("#spoken")).to_have_text("one two three")
    await done(page)
    await expect(page.locator("#spoken")).to_have_attribute("aria-live", "polite")
    assert await page.evaluate("window.spoken") == ["one two three"]
