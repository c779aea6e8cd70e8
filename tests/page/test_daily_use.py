"""What people do every day: drafts, files, settings, context, saving, deleting; on one page."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from llamastream.types import EngineState
from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words
from tests.doubles.waiting import LIMIT_S
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done, edit
from tests.page.test_chat_page import answers, questions, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's


async def test_drafts_belong_to_their_conversations(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    message = page.get_by_label("Message")
    await send(page, "first")
    await done(page)
    await message.fill("half of one")
    await page.keyboard.press("Control+Shift+O")
    await expect(message).to_have_value("")
    await message.fill("half of two")
    await page.get_by_role("link", name="first").click()
    await expect(message).to_have_value("half of one")
    await page.reload()
    await expect(message).to_have_value("half of one")
    await page.get_by_role("button", name="New conversation").click()
    await expect(message).to_have_value("half of two")
    await expect(page.get_by_role("heading", name="Today")).to_be_visible()
    await message.blur()
    await page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keyboard shortcuts")
    await expect(keys).to_contain_text("Stop the answer")
    await page.keyboard.press("Escape")
    await page.keyboard.press("/")
    await expect(message).to_be_focused()


async def test_a_file_becomes_a_quotation(
    serve: Serve, open_page: OpenPage, tmp_path: Path
) -> None:
    engine = FakeEngine(last_user_words, state=EngineState.LOADING)
    page = await open_page(await serve(engine))
    (tmp_path / "a.py").write_text("x = '```'\n")
    (tmp_path / "b.bin").write_bytes(b"\xff\x00")
    choose = page.get_by_label("Text files", exact=True)
    await choose.set_input_files([tmp_path / "a.py", tmp_path / "b.bin"])
    files = page.get_by_role("list", name="Attached files")
    await expect(files).to_contain_text("a.py…")  # it is counted when there is a model
    engine.become_ready()
    quoted = "a.py:\n````py\nx = '```'\n````"
    await expect(files).to_contain_text(f"a.py{len(quoted)} tokens")
    await expect(page.get_by_role("alert")).to_contain_text("b.bin is no text")
    await send(page, "Look:")
    await expect(questions(page)).to_have_text(f"Look:\n\n{quoted}", use_inner_text=True)
    await expect(files).to_be_hidden()


async def test_all_sampling_options_reach_the_model(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words)
    page = await open_page(await serve(engine))
    await page.get_by_role("button", name="Settings").click()
    await page.get_by_text("More", exact=True).click()
    for label, value in {
        "Top p": "0.9",
        "Top k": "40",
        "Min p": "0.05",
        "Repetition penalty": "1.1",
        "Presence penalty": "0.2",
        "Frequency penalty": "0.3",
    }.items():
        await page.get_by_label(label).fill(value)
    await page.get_by_role("button", name="Done").click()
    await send(page, "hi")
    await expect(answers(page)).to_have_text("hi")
    sampling = engine.submitted[0].sampling
    assert (sampling.top_p, sampling.top_k, sampling.min_p) == (0.9, 40, 0.05)
    assert sampling.repetition_penalty == 1.1
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 0.3)
    await page.get_by_role("button", name="demo").click()
    await expect(page.get_by_role("dialog")).to_contain_text("Context4096 tokens")


async def test_a_full_context_has_ways_out(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words, max_model_len=400)
    page = await open_page(await serve(engine))
    await send(page, "x" * 120)
    await done(page)
    gauge = page.locator("#context")
    await expect(gauge).to_contain_text("%")
    await send(page, "y" * 150)
    dialog = page.get_by_role("dialog", name="Context")
    await expect(dialog).to_contain_text("maximum context length is 400")
    await dialog.get_by_role("button", name="Drop the oldest turns").click()
    await expect(answers(page).last).to_have_text("y" * 150)
    assert b"x" * 120 not in bytes(i for i in engine.submitted[-1].prompt_ids if i < 256)


async def test_the_system_prompt_can_be_shortened(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await send(page, "hi")
    await done(page)
    await page.locator("#context").click()
    await expect(page.get_by_role("dialog", name="Context")).to_contain_text("of 4096 tokens")
    await page.get_by_role("button", name="Shorten the system prompt").click()
    await expect(page.get_by_label("System prompt")).to_be_focused()


@pytest.mark.parametrize(("kind", "target"), [("drop", "main"), ("paste", "#text")])
async def test_files_are_dropped_and_pasted(
    serve: Serve, open_page: OpenPage, kind: str, target: str
) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await expect(page.get_by_role("button", name="demo")).to_be_visible()
    give = """([kind, target]) => {
        const files = new DataTransfer();
        files.items.add(new File(["some words"], "a.txt", { type: "text/plain" }));
        const given = { dataTransfer: files, clipboardData: files };
        const Given = kind === "drop" ? DragEvent : ClipboardEvent;
        const event = new Given(kind, { bubbles: true, cancelable: true, ...given });
        document.querySelector(target).dispatchEvent(event);
    }"""
    await page.evaluate(give, [kind, target])
    files = page.get_by_role("list", name="Attached files")
    await expect(files).to_contain_text(re.compile(r"a\.txt\d+ tokens"))
    await page.get_by_label("Send", exact=True).click()
    await expect(questions(page)).to_contain_text("some words")


async def test_a_conversation_goes_on_from_a_summary(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words)
    page = await open_page(await serve(engine))
    await send(page, "a fact")
    await done(page)
    await page.locator("#context").click()
    await page.get_by_role("button", name="New conversation with a summary").click()
    await expect(answers(page)).to_contain_text("Summarise our conversation")
    await expect(page.get_by_role("link", name="a fact (continued)")).to_be_visible()
    await send(page, "go on")
    await expect(answers(page).last).to_have_text("go on")


async def test_a_deleted_conversation_can_be_had_back(serve: Serve, open_page: OpenPage) -> None:
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    await send(page, "hello")
    await done(page)
    delete = page.get_by_role("button", name="Delete “hello”")
    await page.get_by_role("link", name="hello").hover()
    await delete.click()
    await expect(page.get_by_text("Ask anything.")).to_be_visible()
    await expect(delete).to_have_count(0)
    await page.get_by_role("button", name="Undo").click()
    await expect(answers(page)).to_have_text("hello")
    await page.get_by_role("link", name="hello").hover()
    await delete.click()
    await page.goto("about:blank")  # leaving is not having it back
    async with httpx.AsyncClient(base_url=url) as client:
        async with asyncio.timeout(LIMIT_S):
            while (await client.get("v1/conversations")).json()["data"]:
                pass


async def test_conversations_are_saved_and_taken_in(
    serve: Serve, open_page: OpenPage, tmp_path: Path
) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    for text in ("one", "two"):
        await send(page, text)
        await expect(answers(page).last).to_have_text(text)
        await done(page)
    await edit(page, 0, "uno")
    await done(page)
    async with page.expect_download() as waiting:
        await page.get_by_role("button", name="Export all").click()
    path = tmp_path / "all.json"
    await (await waiting.value).save_as(path)
    saved = json.loads(path.read_text())["conversations"]
    assert [item["text"] for item in saved[0]["items"]] == [
        "one",
        "one",
        "two",
        "two",
        "uno",
        "uno",
    ]
    await page.get_by_label("File of conversations").set_input_files(path)
    await expect(page.get_by_role("link", name="one")).to_have_count(2)
    await page.get_by_role("link", name="one").first.click()
    await expect(questions(page)).to_have_text(["uno"])
    await page.get_by_label("Previous version").click()
    await expect(questions(page)).to_have_text(["one", "two"])
    async with page.expect_download() as waiting:
        await page.get_by_role("button", name="Save this conversation").click()
        await page.get_by_role("button", name="Markdown").click()
    await (await waiting.value).save_as(tmp_path / "one.md")
    text = (tmp_path / "one.md").read_text()
    assert text.startswith("# one\n\n## You\n\none\n\n## Answer\n\none\n\n## You\n\ntwo\n")


async def test_conversations_are_found_by_what_was_said(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await send(page, "first")
    await done(page)
    await send(page, "the keeper of a lighthouse")
    await done(page)
    await page.get_by_role("button", name="New conversation").click()
    await send(page, "another")
    await done(page)
    await page.keyboard.press("Control+k")
    await expect(page.get_by_label("Search conversations")).to_be_focused()
    await page.keyboard.type("light")
    found = page.get_by_role("list", name="Found").get_by_role("link")
    await expect(found).to_have_text(["firstthe keeper of a lighthouse"])
    await expect(found.locator("mark")).to_have_text("light")
    await found.click()
    await expect(questions(page)).to_have_text(["first", "the keeper of a lighthouse"])
    await page.get_by_label("Search conversations").fill("nowhere")
    await expect(page.get_by_text("Nothing was found.")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("link", name="another")).to_be_visible()
