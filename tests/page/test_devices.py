"""The page on a phone, as an app, and before thousands of conversations."""

import json
from pathlib import Path

import pytest
from playwright.async_api import expect

from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done
from tests.page.test_chat_page import answers, questions, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

DAY_S = 86_400
BEGIN = 1_700_000_000


async def test_the_list_is_a_drawer_on_a_phone(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(
        await serve(FakeEngine(last_user_words)),
        viewport={"width": 390, "height": 800},
        has_touch=True,
        is_mobile=True,
    )
    await send(page, "hello")
    await done(page)
    menu = page.get_by_role("main").get_by_role("button", name="Conversations")
    await menu.tap()
    await expect(page.get_by_role("button", name="Close the list")).to_be_focused()
    await page.get_by_role("button", name="New conversation").tap()
    await expect(page.get_by_text("Ask anything.")).to_be_visible()
    await expect(page.get_by_role("link", name="hello")).not_to_be_in_viewport()
    await menu.tap()
    await page.get_by_role("link", name="hello").tap()
    await expect(answers(page)).to_have_text("hello")
    await menu.tap()
    await page.keyboard.press("Escape")
    await expect(menu).to_be_focused()
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width == 390


async def test_the_page_can_be_installed_and_is_never_an_old_one(
    serve: Serve, open_page: OpenPage
) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    session = await page.context.new_cdp_session(page)
    found = await session.send("Page.getAppManifest")
    manifest = json.loads(found["data"])
    assert found["errors"] == []
    assert (manifest["name"], manifest["display"]) == ("llamastream", "standalone")
    (icon,) = manifest["icons"]
    answered = await page.request.get(f"{found['url'].rpartition('/')[0]}/{icon['src']}")
    assert answered.headers["content-type"].startswith("image/svg+xml")
    workers = "navigator.serviceWorker.getRegistrations().then((all) => all.length)"
    assert await page.evaluate(workers) == 0


async def test_thousands_of_conversations_are_listed_by_date_and_found(
    serve: Serve, open_page: OpenPage, tmp_path: Path
) -> None:
    lines = [{"kind": "header", "format": 1}]
    for k in range(2_000):
        times = dict.fromkeys(("created_at", "updated_at"), BEGIN + k * DAY_S / 10)
        title = {"metadata": {"title": f"Conversation {k}"}}
        lines.append({"kind": "conversation", "id": f"conv_{k}", "scope": "", **times, **title})
    (tmp_path / "lines").write_text("\n".join(map(json.dumps, lines)))
    async with await Store.open(sqlite_url(tmp_path)) as store:
        await store.import_(tmp_path / "lines")
    page = await open_page(await serve(FakeEngine(last_user_words)))
    links = page.get_by_role("list", name="All conversations").get_by_role("link")
    await expect(links.first).to_have_text("Conversation 1999")
    await expect(links.nth(49)).to_be_attached()
    await expect(page.get_by_role("heading", level=2, name="June 2024")).to_be_attached()
    shown = await links.count()
    assert shown < 500
    await page.locator("#more").scroll_into_view_if_needed()
    await expect(links.nth(shown)).to_be_attached()
    await send(page, "new")
    await done(page)
    await expect(page.get_by_role("heading", name="Today")).to_be_visible()
    await page.get_by_label("Search conversations").fill("conversation 17")
    found = page.get_by_role("list", name="Found").get_by_role("link")
    await expect(found).to_have_count(30)
    await page.get_by_label("Search conversations").fill("conversation 1717")
    await expect(found).to_have_text(["Conversation 1717"])
    await found.click()
    await expect(page.get_by_label("Title of the conversation")).to_have_value("Conversation 1717")
    await expect(questions(page)).to_have_count(0)
