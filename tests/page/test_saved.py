"""What the page saves is read by the page and by `llamastream db import`, versions and steps."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect
from typer.testing import CliRunner

from llamastream.cli.db import db
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import last_user_words, make_responses, make_service
from tests.page.conftest import OpenPage, Serve
from tests.page.test_chat_page import answers, questions

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

ITEMS = [
    {"role": "user", "content": "Rome?"},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "*Hm*, a tool."}]},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"id": 2}'},
    {"type": "function_call_output", "call_id": "c1", "output": "<b>sunny</b>"},
    {"role": "assistant", "content": "It is **sunny**."},
]
OTHER = [{"role": "user", "content": "Oslo?"}, {"role": "assistant", "content": "Cold."}]


async def fill(url: str) -> None:
    """A conversation with steps, and another version of its first message."""
    async with httpx.AsyncClient(base_url=f"{url}v1") as client:
        made = await client.post("/conversations", json={"metadata": {"title": "Weather"}})
        path = f"/conversations/{made.json()['id']}/items"
        for body in ({"items": ITEMS}, {"items": OTHER, "after": "root"}):
            assert (await client.post(path, json=body)).status_code == 200


async def check_shown(page: Page) -> None:
    await expect(questions(page)).to_have_text(["Oslo?"])
    await expect(answers(page)).to_have_text(["Cold."])
    await page.get_by_label("Previous version").click()
    await expect(questions(page)).to_have_text(["Rome?"])
    steps = page.locator("article.assistant details.step")
    await expect(steps.locator("summary")).to_have_text(["Thoughts", "Tool: weather"])
    await expect(answers(page).last).to_have_text("It is sunny.")
    await steps.last.locator("summary").click()
    await expect(steps.last.get_by_label("Arguments")).to_have_text('{"id": 2}')
    await expect(steps.last.get_by_label("Result")).to_have_text("<b>sunny</b>")


async def test_a_saved_conversation_is_whole_wherever_it_is_taken_in(
    serve: Serve, open_page: OpenPage, tmp_path: Path
) -> None:
    url = await serve(FakeEngine(last_user_words))
    await fill(url)
    page = await open_page(url)
    await page.get_by_role("link", name="Weather").click()
    await check_shown(page)
    file, folder = tmp_path / "saved.json", tmp_path / "other"
    for name, then in (("Save this conversation", "JSON"), ("Export all", None)):
        async with page.expect_download() as waiting:
            await page.get_by_role("button", name=name).click()
            if then is not None:
                await page.get_by_role("button", name=then, exact=True).click()
        await (await waiting.value).save_as(file)
        assert len(json.loads(file.read_text())["conversations"]) == 1
    await page.get_by_label("File of conversations").set_input_files(file)
    links = page.get_by_role("link", name="Weather")
    await expect(links).to_have_count(2)
    await page.locator("#conversations li:not(.open)").get_by_role("link").click()
    await check_shown(page)

    command = ["import", str(file), "--data-dir", str(folder)]
    done = await asyncio.to_thread(CliRunner().invoke, db, command, catch_exceptions=False)
    assert "Read 9 lines" in done.output
    service = make_service(FakeEngine(last_user_words))
    async with running_server(service, None, make_responses(service, folder)) as other:
        again = await open_page(f"{other}/")
        await again.get_by_role("link", name="Weather").click()
        await check_shown(again)
        await again.goto("about:blank")
