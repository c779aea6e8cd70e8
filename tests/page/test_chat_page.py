"""What a person does on the chat page, and sees."""

import re

import httpx
import pytest
from playwright.async_api import Page, expect

from llamastream.config import ServeSettings
from llamastream.types import EngineState
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.page.conftest import OpenPage, Serve

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

TEXT = "Of all things 😀 the *best* is a `stream`."
SHOWN = "Of all things 😀 the best is a stream."


async def send(page: Page, text: str) -> None:
    await expect(page.get_by_label("Stop")).to_be_hidden()  # what was asked before has its answer
    await page.get_by_label("Message").fill(text)
    await page.keyboard.press("Enter")


def answers(page: Page) -> object:
    return page.locator("article.assistant .markdown")


def questions(page: Page) -> object:
    return page.locator("article.user .said")


async def stored_texts(url: str) -> list[str]:
    """Of the newest conversation, as the server holds it."""
    async with httpx.AsyncClient(base_url=url) as client:
        conversations = (await client.get("v1/conversations")).json()["data"]
        path = f"v1/conversations/{conversations[0]['id']}/items?order=asc"
        items = (await client.get(path)).json()["data"]
    return [item["content"][0]["text"] for item in items]


async def test_an_answer_is_shown_while_it_is_written(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    page = await open_page(await serve(engine))
    await send(page, "Tell me")
    await expect(page.get_by_label("Stop")).to_be_visible()
    engine.allow(6)
    await expect(answers(page)).to_have_text(SHOWN[:6])
    await expect(page.locator("article.live")).to_have_attribute("aria-busy", "true")
    engine.allow(1000)
    await expect(answers(page)).to_have_text(SHOWN)
    await expect(page.get_by_label("Stop")).to_be_hidden()
    num = len(TEXT.encode()) + 1
    await expect(page.locator("article.assistant .note")).to_have_text(
        re.compile(rf"^{num} tokens · [\d.]+ tokens/s$")
    )
    await expect(page.locator("#spoken")).to_have_text(TEXT)


async def test_the_same_answer_can_be_had_again(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(says("one"))
    page = await open_page(await serve(engine))
    await send(page, "Number?")
    for is_reloaded in (False, True):
        facts = page.locator("article.assistant .facts")
        await facts.locator("summary").click()
        await expect(facts).to_contain_text("Answer4 tokens")
        await expect(facts).to_contain_text("0 of them from the cache")
        if not is_reloaded:
            await expect(facts).to_contain_text("First token")
            await page.reload()
    await page.get_by_role("button", name="The same again").click()
    await expect(page.get_by_label("Answer again")).to_be_visible()
    first, second = (request.sampling.seed for request in engine.submitted)
    assert first == second
    assert first is not None and first < 2**53


async def test_another_browser_shows_the_same(serve: Serve, open_page: OpenPage) -> None:
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    for text in ("one  two", "three"):
        await send(page, text)
        await expect(answers(page).last).to_have_text(text)
        await expect(page.get_by_label("Stop")).to_be_hidden()
    other = await open_page(url)
    await other.get_by_role("link", name="one two").click()
    await expect(questions(other)).to_have_text(["one two", "three"])
    await expect(answers(other)).to_have_text(["one two", "three"])
    await other.reload()
    await expect(answers(other)).to_have_text(["one two", "three"])
    await expect(other).to_have_title("one two · llamastream")


@pytest.mark.parametrize("num_before", [0, 1, 10])
async def test_an_answer_under_way_is_found_after_a_reload(
    serve: Serve, open_page: OpenPage, num_before: int
) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    url = await serve(engine)
    page = await open_page(url)
    await send(page, "Tell me")
    engine.allow(num_before)
    await expect(page.locator("article.live")).to_have_text(f"Answer{SHOWN[:num_before]}")
    await page.reload()
    await expect(answers(page)).to_have_text(SHOWN[:num_before])
    other = await open_page(page.url)
    await expect(answers(other)).to_have_text(SHOWN[:num_before])
    engine.allow(1000)
    for each in (page, other):
        await expect(questions(each)).to_have_text(["Tell me"])
        await expect(answers(each)).to_have_text([SHOWN])
        await expect(each.get_by_label("Stop")).to_be_hidden()
    assert await stored_texts(url) == ["Tell me", TEXT]


async def test_other_conversations_go_on_meanwhile(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    page = await open_page(await serve(engine))
    await send(page, "first")
    engine.allow(2)
    await expect(answers(page)).to_have_text("fi")
    await page.get_by_role("button", name="New conversation").click()
    await expect(page.get_by_text("Ask anything.")).to_be_visible()
    await send(page, "second")
    engine.allow(1000)
    await expect(answers(page)).to_have_text("second")
    await page.get_by_role("link", name="first").click()
    await expect(answers(page)).to_have_text("first")
    await page.go_back()
    await expect(answers(page)).to_have_text("second")


@pytest.mark.parametrize("way", ["button", "Escape"])
async def test_stopped_answers_keep_what_they_said(
    serve: Serve, open_page: OpenPage, way: str
) -> None:
    engine = FakeEngine(says(TEXT), manual=True)
    url = await serve(engine)
    page = await open_page(url)
    await send(page, "Tell me")
    engine.allow(6)
    await expect(answers(page)).to_have_text(SHOWN[:6])
    if way == "button":
        await page.get_by_label("Stop").click()
    else:
        await page.keyboard.press("Escape")
    await expect(page.locator("article.assistant .note")).to_contain_text("stopped")
    assert engine.num_alive == 0
    assert await stored_texts(url) == ["Tell me", TEXT[:6]]
    await page.reload()
    await expect(answers(page)).to_have_text(SHOWN[:6])
    await expect(page.locator("article.assistant .note")).to_have_text("not complete")


async def test_an_answer_stopped_before_it_began(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, manual=True)
    url = await serve(engine)
    page = await open_page(url)
    await send(page, "Tell me")
    await page.get_by_label("Stop").click()
    await expect(page.get_by_label("Stop")).to_be_hidden()
    assert (await stored_texts(url))[0] == "Tell me"
    await page.reload()
    await expect(questions(page)).to_have_text(["Tell me"])
    engine.allow(1000)
    await page.get_by_label("Answer again").click()
    await expect(answers(page)).to_have_text(["Tell me"])
    await expect(page.get_by_label("Stop")).to_be_hidden()
    assert await stored_texts(url) == ["Tell me", "", "Tell me"]


async def test_a_conversation_is_renamed(serve: Serve, open_page: OpenPage) -> None:
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    await send(page, "hello")
    await expect(answers(page)).to_have_text("hello")
    await page.get_by_label("Title of the conversation").fill("Greetings")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="Greetings")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("Title of the conversation")).to_have_value("Greetings")


async def test_shift_and_enter_begin_a_line(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await page.get_by_label("Message").press_sequentially("a")
    await page.keyboard.press("Shift+Enter")
    await page.get_by_label("Message").press_sequentially("b")
    await page.keyboard.press("Enter")
    await expect(questions(page)).to_have_text("a\nb")


async def test_a_refused_setting_is_shown_at_its_field(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("Temperature").fill("101")
    await page.get_by_role("button", name="Done").click()
    await send(page, "keep this")
    await expect(page.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_role("dialog")).to_contain_text("<= 100.0. Given: 101")
    await page.get_by_label("Temperature").fill("1")
    await page.get_by_role("button", name="Done").click()
    await expect(page.get_by_label("Message")).to_have_value("keep this")
    await page.get_by_role("button", name="Send").click()
    await expect(answers(page)).to_have_text("keep this")


async def test_limits_are_the_servers(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await page.get_by_role("button", name="Settings").click()
    limit = page.get_by_label("Max tokens")
    await expect(limit).to_have_attribute("placeholder", "up to 4096")
    await limit.fill("9000")
    await page.get_by_role("button", name="Done").click()
    await send(page, "keep this")
    await expect(page.get_by_role("alert")).to_contain_text("9000 in the completion")
    await page.get_by_role("button", name="Settings").click()
    await limit.fill("4")
    await page.get_by_role("button", name="Done").click()
    await page.get_by_role("button", name="Send").click()
    await expect(answers(page)).to_have_text("keep")
    note = page.locator("article.assistant .note")
    await expect(note).to_contain_text("ended at the limit · 4 tokens")


async def test_settings_reach_the_model(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words)
    page = await open_page(await serve(engine))
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_label("System prompt").fill("Be brief.")
    await page.get_by_label("Temperature").fill("0.5")
    await page.get_by_label("Seed").fill("18446744073709551615")
    await page.reload()
    await send(page, "hi")
    await expect(answers(page)).to_have_text("hi")
    (request,) = engine.submitted
    assert b"Be brief." in bytes(i for i in request.prompt_ids if i < 256)
    assert request.sampling.temperature == 0.5
    assert request.sampling.seed == 18446744073709551615 % 2**64


async def test_a_busy_server_says_when_to_come_again(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, max_num_seqs=0, max_num_waiting=0)
    page = await open_page(await serve(engine))
    await send(page, "keep this")
    await expect(page.get_by_role("alert")).to_contain_text("Try again in 7 s.")
    await expect(page.get_by_label("Message")).to_have_value("keep this")
    await expect(page.locator("article")).to_have_count(0)
    engine.max_num_seqs = 1
    await page.get_by_label("Send", exact=True).click()
    await expect(answers(page)).to_have_text("keep this")
    await expect(page.get_by_role("alert")).to_be_hidden()


async def test_a_server_that_loads_is_waited_for(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, state=EngineState.LOADING)
    page = await open_page(await serve(engine))
    await expect(page.get_by_role("status")).to_have_text("The model is loading…")
    await send(page, "typed before")
    await expect(page.get_by_label("Message")).to_have_value("typed before")
    engine.become_ready()
    await expect(answers(page)).to_have_text("typed before")
    await expect(page.get_by_role("status")).to_be_hidden()


async def test_a_server_with_keys_asks_for_one(serve: Serve, open_page: OpenPage) -> None:
    url = await serve(FakeEngine(last_user_words), ServeSettings(api_key="secret"))
    page = await open_page(url)
    dialog = page.get_by_role("dialog", name="API key")
    await dialog.get_by_label("Key", exact=True).fill("wrong")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_text("not known here")).to_be_visible()
    await dialog.get_by_label("Key", exact=True).fill("secret")
    await dialog.get_by_role("button", name="Continue").click()
    await expect(dialog).to_be_hidden()
    await send(page, "hi")
    await expect(answers(page)).to_have_text("hi")
    kept = "name => [sessionStorage, localStorage].map((kind) => kind.getItem(name))"
    assert await page.evaluate(kept, "llamastream.key") == ['"secret"', None]  # this tab's alone
    await page.reload()
    await expect(answers(page)).to_have_text("hi")
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_role("button", name="Forget the API key").click()
    await expect(dialog).to_be_visible()


async def test_a_draft_survives_a_reload(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await page.get_by_label("Message").fill("half a thought")
    await page.reload()
    await expect(page.get_by_label("Message")).to_have_value("half a thought")
