"""What a person does while the page is busy is neither lost nor done twice."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done, edit
from tests.page.test_chat_page import answers, questions, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

IDS = re.compile(r"/items\?")


@asynccontextmanager
async def held(page: Page, pattern: re.Pattern[str]) -> AsyncIterator[None]:
    """Requests wait until the end of this."""
    ended = asyncio.Event()

    async def wait(route: Route) -> None:
        await ended.wait()
        await route.continue_()

    await page.route(pattern, wait)
    yield
    ended.set()


async def look_again(page: Page) -> None:
    """The tab comes to the front."""
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


async def test_a_message_sent_while_the_page_learns_ids_follows(
    serve: Serve, open_page: OpenPage
) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    async with held(page, IDS):
        await send(page, "one")
        await expect(answers(page)).to_have_text("one")
        await expect(page.get_by_label("Send", exact=True)).to_be_visible()
        await send(page, "two")
        await expect(page.get_by_label("Message")).to_have_value("two")  # not lost, not sent yet
    await expect(answers(page)).to_have_text(["one", "two"])
    await expect(page.get_by_label("Message")).to_have_value("")


async def test_a_message_sent_while_an_answer_comes_follows(
    serve: Serve, open_page: OpenPage
) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    page = await open_page(await serve(engine))
    await send(page, "one")
    engine.allow(2)
    await expect(answers(page)).to_have_text("on")
    message, due = page.get_by_label("Message"), page.get_by_text("It is sent when")
    await message.fill("tw")
    await page.keyboard.press("Enter")
    await expect(due).to_be_visible()
    await page.keyboard.type("o")  # half of it is not to go out
    await expect(due).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(due).to_be_visible()
    engine.allow(100)
    await expect(answers(page)).to_have_text(["one", "two"])
    await expect(due).to_be_hidden()
    await expect(message).to_have_value("")


async def test_an_edit_is_sent_behind_what_is_under_way(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    page = await open_page(await serve(engine))
    await send(page, "one")
    engine.allow(2)
    await expect(answers(page)).to_have_text("on")
    await page.get_by_label("Edit").click()
    await page.get_by_label("Your message").fill("not this")
    await page.keyboard.press("Escape")  # ends the edit, not the answer
    await expect(questions(page)).to_have_text("one")
    await expect(page.get_by_label("Edit")).to_be_focused()
    await edit(page, 0, "uno")
    await expect(page.get_by_text("It is sent when")).to_be_visible()
    engine.allow(100)
    await expect(answers(page)).to_have_text("uno")
    await expect(page.get_by_role("group", name="Versions")).to_have_text("2 / 2")


async def test_two_clicks_ask_for_one_answer(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words)
    page = await open_page(await serve(engine))
    async with held(page, IDS):
        await send(page, "one")
        await done(page)
        await page.get_by_label("Answer again").dblclick()
    versions = page.get_by_role("group", name="Versions")
    await expect(versions).to_have_text("2 / 2")
    await done(page)
    await page.get_by_label("Answer again").dblclick()
    await expect(versions).to_have_text("3 / 3")
    await done(page)
    assert len(engine.submitted) == 3


async def test_a_double_click_deletes_one_conversation(serve: Serve, open_page: OpenPage) -> None:
    url = await serve(FakeEngine(last_user_words))
    async with httpx.AsyncClient(base_url=url) as client:

        async def make(title: str) -> None:
            body = {"metadata": {"title": title}}
            (await client.post("v1/conversations", json=body)).raise_for_status()

        for title in ("one", "two", "three"):
            await make(title)
        page = await open_page(url)
        links = page.get_by_role("list", name="All conversations").get_by_role("link")
        await page.get_by_role("link", name="three").hover()
        await page.get_by_role("button", name="Delete “three”").dblclick()
        await expect(links).to_have_text(["two", "one"])
        await make("four")
        await look_again(page)  # the server has not heard of it yet
        await expect(links).to_have_text(["four", "two", "one"])


async def test_who_turns_away_at_once_is_answered(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await send(page, "first")
    await done(page)
    for text, pattern in {"second": "/v1/conversations$", "third": "/v1/responses$"}.items():
        await page.get_by_role("button", name="New conversation").click()
        async with held(page, re.compile(pattern)):
            async with page.expect_request(re.compile(pattern)):
                await send(page, text)
            await page.get_by_role("link", name="first").click()
            await expect(answers(page)).to_have_text("first")
        await page.get_by_role("link", name=text).click()
        await expect(answers(page)).to_have_text(text)


async def test_what_is_typed_stays_when_others_change_the_conversation(
    serve: Serve, open_page: OpenPage
) -> None:
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    await send(page, "hello")
    await done(page)
    title = page.get_by_label("Title of the conversation")
    await title.fill("Greetings")
    async with httpx.AsyncClient(base_url=url) as client:
        items = f"v1/conversations/{page.url.partition('#')[2]}/items"
        body = {"items": [{"role": "user", "content": "from elsewhere"}]}
        (await client.post(items, json=body)).raise_for_status()
    await look_again(page)
    await expect(questions(page)).to_have_text(["hello", "from elsewhere"])
    await expect(title).to_have_value("Greetings")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="Greetings")).to_be_visible()
    await title.fill("No")
    await page.keyboard.press("Escape")
    await expect(title).to_have_value("Greetings")
    await page.get_by_label("Edit").first.click()
    await page.get_by_label("Your message").fill("half an edit")
    await page.keyboard.press("Control+Shift+O")
    await expect(page.get_by_text("Ask anything.")).to_be_visible()
    await expect(page.get_by_label("Message")).to_have_value("")
    await page.get_by_role("link", name="Greetings").click()
    await expect(page.get_by_label("Message")).to_have_value("half an edit")
