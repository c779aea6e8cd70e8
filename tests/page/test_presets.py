"""Presets live on the server: chosen on every device, carried in files, taken over once."""

import json
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words
from tests.page.conftest import OpenPage, Serve
from tests.page.test_chat_page import answers, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

MAX_SEED = str(2**64 - 1)


async def open_settings(page: Page) -> None:
    """With what belongs to presets in view."""
    async with page.expect_response("**/v1/presets?*"):
        await page.get_by_role("button", name="Settings").click()
    if not await page.get_by_label("Save as").is_visible():
        await page.get_by_text("Presets", exact=True).click()


def chosen(page: Page) -> object:
    return page.get_by_label("Preset", exact=True).locator("option:checked")


def names(page: Page) -> object:
    return page.get_by_label("Preset", exact=True).locator("option")


async def keep(page: Page, name: str) -> None:
    await page.get_by_label("Save as").fill(name)
    await page.keyboard.press("Enter")


async def test_presets_are_the_same_on_every_device(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words)
    url = await serve(engine)
    page = await open_page(url)
    await open_settings(page)
    prompt = page.get_by_label("System prompt")
    for name, words in {"French": "Speak French.", "Brief": "Be brief."}.items():
        await prompt.fill(words)
        await page.get_by_label("Seed").fill(MAX_SEED)
        await keep(page, name)
        await expect(chosen(page)).to_have_text(name)
    await prompt.fill("Be very brief.")
    await expect(chosen(page)).to_have_text("None")
    other = await open_page(url)
    await open_settings(other)
    await other.get_by_label("Preset", exact=True).select_option(label="French")
    await expect(other.get_by_label("System prompt")).to_have_value("Speak French.")
    await expect(other.get_by_label("Seed")).to_have_value(MAX_SEED)
    await other.get_by_role("button", name="Delete", exact=True).click()
    await expect(names(other)).to_have_text(["None", "Brief"])
    await expect(other.get_by_label("Save as")).to_have_value("French")
    await page.get_by_role("button", name="Done").click()
    await open_settings(page)
    await expect(names(page)).to_have_text(["None", "Brief"])
    await other.get_by_role("button", name="Done").click()
    await send(other, "hi")
    await expect(answers(other)).to_have_text("hi")
    (request,) = engine.submitted
    assert b"Speak French." in bytes(i for i in request.prompt_ids if i < 256)
    assert request.sampling.seed == 2**64 - 1


async def test_presets_are_carried_in_files(
    serve: Serve, open_page: OpenPage, tmp_path: Path
) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await open_settings(page)
    await page.get_by_label("System prompt").fill("Speak French.")
    await page.get_by_label("Seed").fill(MAX_SEED)
    await keep(page, "French")
    await expect(chosen(page)).to_have_text("French")
    async with page.expect_download() as waiting:
        await page.get_by_role("button", name="Export presets").click()
    file = tmp_path / "presets.json"
    await (await waiting.value).save_as(file)
    kept = {"instructions": "Speak French.", "seed": 2**64 - 1}
    assert json.loads(file.read_text())["presets"] == {"French": kept}
    await page.get_by_label("System prompt").fill("Parlez.")
    await keep(page, "French")
    await page.get_by_label("File of presets").set_input_files(file)
    await expect(names(page)).to_have_text(["None", "French", "French (2)"])
    file.write_text(file.read_text().replace('"seed"', '"sead"'))
    await page.get_by_label("File of presets").set_input_files(file)
    alert = page.get_by_role("dialog").get_by_role("alert")
    await expect(alert).to_contain_text("French (3): Unknown option: 'sead'")
    file.write_text("[]")
    await page.get_by_label("File of presets").set_input_files(file)
    await expect(alert).to_contain_text("This is no file of presets")


async def test_what_the_server_refuses_is_shown_where_it_was_typed(
    serve: Serve, open_page: OpenPage
) -> None:
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    await open_settings(page)
    dialog = page.get_by_role("dialog")
    for typed, words in {"101": "<= 100.0. Given: 101", "warm": "must be a number"}.items():
        await page.get_by_label("Temperature").fill(typed)
        await keep(page, "Hot")
        await expect(dialog).to_contain_text(words)
        await expect(page.get_by_label("Temperature")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Save as")).to_have_value("Hot")
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("v1/presets")).json()["data"] == []
        settings = {"temperature": 0, "tools": [{"type": "function", "name": "f"}]}
        made = await client.post("v1/presets", json={"name": "Tools", "settings": settings})
        assert made.status_code == 200
    await page.get_by_role("button", name="Done").click()
    await open_settings(page)
    await page.get_by_label("Preset", exact=True).select_option(label="Tools")
    await expect(dialog).to_contain_text("This page has no setting for tools.")
    await page.context.set_offline(True)
    await page.get_by_role("button", name="Delete", exact=True).click()
    await expect(dialog.get_by_role("alert")).to_contain_text("The server cannot be reached")
    await expect(names(page)).to_have_text(["None", "Tools"])


async def test_what_the_browser_kept_moves_to_the_server_once(
    serve: Serve, open_page: OpenPage
) -> None:
    """It kept presets as they were typed, and some that no request could use."""
    url = await serve(FakeEngine(last_user_words))
    page = await open_page(url)
    typed = {"instructions": "Be brief.", "temperature": "0.50", "maxTokens": "x"}
    await page.evaluate(
        "kept => localStorage.setItem('llamastream.presets', kept)", json.dumps({"Brief": typed})
    )
    for _ in range(2):
        await page.reload()
        await open_settings(page)
        await expect(names(page)).to_have_text(["None", "Brief"])
        async with httpx.AsyncClient(base_url=url) as client:
            (preset,) = (await client.get("v1/presets")).json()["data"]
        assert preset["settings"] == {"instructions": "Be brief.", "temperature": 0.5}
        assert await page.evaluate("localStorage.getItem('llamastream.presets')") is None
