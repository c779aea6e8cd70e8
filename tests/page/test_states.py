"""What the page says of the queue and the network, and how it shows text from right to left."""

import pytest
from playwright.async_api import expect

from llamastream.types import EngineState
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done
from tests.page.test_chat_page import answers, questions, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's


async def test_the_queue_is_told_while_an_answer_waits(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, manual=True, max_num_seqs=0)
    page = await open_page(await serve(engine))
    await send(page, "hi")
    status = page.get_by_role("status").filter(has_text="Waiting")
    await expect(status).to_have_text("Waiting: 1 request is in the queue…")
    tab = await page.context.new_page()
    await tab.goto(page.url.partition("#")[0])
    await send(tab, "me too")
    await expect(status).to_have_text("Waiting: 2 requests are in the queue…")
    engine.max_num_seqs = 2
    engine.allow(100)
    for each, text in ((page, "hi"), (tab, "me too")):
        await expect(answers(each)).to_have_text(text)
        await expect(each.get_by_role("status").filter(has_text="Waiting")).to_have_count(0)


async def test_a_page_that_is_offline_says_so(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, state=EngineState.LOADING)
    page = await open_page(await serve(engine))
    status = page.get_by_role("status").filter(visible=True)
    await expect(status).to_have_text("The model is loading…")
    await page.context.set_offline(True)
    await expect(status).to_have_text("You are offline, waiting…")
    await page.context.set_offline(False)
    engine.become_ready()
    await expect(page.get_by_role("button", name="demo")).to_be_visible()
    await page.context.set_offline(True)
    await send(page, "keep this")
    alert = page.get_by_role("alert").filter(visible=True)
    await expect(alert).to_have_text(
        "You are offline. Nothing is lost: send it again when the network is back."
    )
    await expect(page.get_by_label("Message")).to_have_value("keep this")
    await page.context.set_offline(False)
    await page.get_by_label("Send", exact=True).click()
    await expect(answers(page)).to_have_text("keep this")
    await expect(alert).to_have_count(0)


ARABIC = "مرحبا، how are you?"
MIXED = f"""\
{ARABIC}

- ثلاثة
- three

> اقتباس

```
x = "مرحبا"
```

| عنوان | b |
|---|---|
| 1 | 2 |
"""


async def test_text_runs_from_right_to_left_where_it_is_so_written(
    serve: Serve, open_page: OpenPage
) -> None:
    page = await open_page(await serve(FakeEngine(says(MIXED))))
    direction = "e => getComputedStyle(e).direction"
    await page.get_by_label("Message").fill(ARABIC)
    assert await page.get_by_label("Message").evaluate(direction) == "rtl"
    await page.keyboard.press("Enter")
    await done(page)
    body = answers(page)
    for place, expected in {
        questions(page): "rtl",
        page.get_by_label("Title of the conversation"): "rtl",
        page.get_by_role("link", name="مرحبا"): "rtl",
        body.locator("div > p"): "rtl",
        body.get_by_text("ثلاثة"): "rtl",
        body.get_by_text("three"): "ltr",
        body.locator("ul"): "rtl",
        body.locator("blockquote"): "rtl",
        body.get_by_text("اقتباس"): "rtl",
        body.locator("pre"): "ltr",
        body.get_by_role("columnheader", name="عنوان"): "rtl",
        body.get_by_role("cell", name="2"): "ltr",
    }.items():
        assert await place.evaluate(direction) == expected, place
    await page.get_by_label("Edit").click()
    assert await page.get_by_label("Your message").evaluate(direction) == "rtl"
