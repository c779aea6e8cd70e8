"""What is said differently stands beside what was said, on every device."""

import pytest
from playwright.async_api import Page, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.page.conftest import OpenPage, Serve
from tests.page.test_chat_page import answers, questions, send, stored_texts

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's


async def done(page: Page) -> None:
    """What was sent has its answer: it has left its field, which may take until ids are learnt."""
    await expect(page.get_by_label("Message", exact=True)).to_have_value("")
    await expect(page.get_by_label("Send", exact=True)).to_be_visible()
    await expect(page.locator("article").last.locator(".facts")).to_be_attached()


async def edit(page: Page, index: int, text: str) -> None:
    await page.locator("article.user").nth(index).hover()
    await page.get_by_label("Edit").nth(index).click()
    await page.get_by_label("Your message").fill(text)
    await page.get_by_role("button", name="Send", exact=True).first.click()


async def test_a_message_is_said_differently(serve: Serve, open_page: OpenPage) -> None:
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    for text in ("one", "two", "three"):
        await send(page, text)
        await expect(answers(page).last).to_have_text(text)
        await done(page)
    await edit(page, 1, "2")
    await expect(questions(page)).to_have_text(["one", "2"])
    await expect(answers(page)).to_have_text(["one", "2"])
    await done(page)
    assert await stored_texts(url) == ["one", "one", "two", "two", "three", "three", "2", "2"]
    versions = page.get_by_role("group", name="Versions")
    await expect(versions).to_have_text("2 / 2")
    await versions.get_by_label("Previous version").click()
    await expect(questions(page)).to_have_text(["one", "two", "three"])
    await expect(versions.get_by_label("Previous version")).to_be_disabled()
    await page.reload()
    await expect(questions(page)).to_have_text(["one", "two", "three"])
    other = await open_page(page.url)
    await expect(questions(other)).to_have_text(["one", "two", "three"])
    await other.get_by_label("Next version").click()
    await expect(questions(other)).to_have_text(["one", "2"])
    await send(other, "four")
    await expect(answers(other)).to_have_text(["one", "2", "four"])


async def test_an_answer_is_given_again(serve: Serve, open_page: OpenPage) -> None:
    replies = iter(("one", "two", "three", "four"))
    engine = FakeEngine(lambda request: says(next(replies))(request))
    page = await open_page(await serve(engine))
    await send(page, "Number?")
    await expect(answers(page)).to_have_text("one")
    for k, text in enumerate(("two", "three"), 2):
        await page.get_by_label("Answer again").click()
        await expect(answers(page)).to_have_text([text])
        await expect(page.get_by_role("group", name="Versions")).to_have_text(f"{k} / {k}")
    await page.get_by_label("Previous version").click()
    await expect(answers(page)).to_have_text(["two"])
    await send(page, "And?")
    await expect(answers(page)).to_have_text(["two", "four"])
    prompt = bytes(i for i in engine.submitted[-1].prompt_ids if i < 256)
    assert b"two" in prompt and b"three" not in prompt and b"one" not in prompt


async def test_two_tabs_follow_each_other(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    engine.allow(4)
    page = await open_page(await serve(engine))
    await send(page, "one")
    await expect(answers(page)).to_have_text("one")
    await done(page)
    tab = await page.context.new_page()
    await tab.goto(page.url)
    await expect(answers(tab)).to_have_text("one")
    await send(page, "slowly")
    engine.allow(4)
    await expect(questions(tab)).to_have_text(["one", "slowly"])
    await expect(answers(tab)).to_have_text(["one", "slow"])
    engine.allow(100)
    await expect(answers(tab)).to_have_text(["one", "slowly"])
    await done(tab)
    await edit(tab, 0, "uno")
    await expect(questions(page)).to_have_text(["uno"])
    await page.get_by_label("Previous version").click()
    await expect(questions(tab)).to_have_text(["one", "slowly"])
