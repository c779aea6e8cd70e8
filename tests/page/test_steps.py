"""Reasoning and tools' calls, in the shapes of OpenAI's Responses, are shown folded."""

import json
import re

import pytest
from playwright.async_api import Page, Route, expect

from tests.doubles.engine import FakeEngine
from tests.doubles.service import last_user_words, says
from tests.doubles.templates import ALWAYS
from tests.page.conftest import OpenPage, Serve
from tests.page.test_branches import done
from tests.page.test_chat_page import answers, questions, send

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the browser's

QUESTION = {"id": "msg_q", "type": "message", "role": "user", "content": [{"text": "Rome?"}]}
THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": [], "content": [{"text": "*Hm*, a tool."}]}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"id": 18446744073709551615}',
}
OUTPUT = {
    "id": "fo_1",
    "type": "function_call_output",
    "call_id": "call_1",
    "output": "<b>sunny</b>",
}
WORDS = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "It is **sunny**."}],
}


def events(output: list[dict[str, object]]) -> bytes:
    """What a server streams that answers with these items: each grows by one delta."""
    response = {"id": "resp_1", "error": None, "usage": None, "conversation": None}
    bodies: list[dict[str, object]] = [
        {
            "type": "response.created",
            "response": response | {"status": "in_progress", "output": []},
        }
    ]
    for index, item in enumerate(output):
        empty = item | ({"arguments": ""} if "arguments" in item else {"content": []})
        kind, delta = {
            "reasoning": ("reasoning_text", "*Hm*, a tool."),
            "function_call": ("function_call_arguments", item.get("arguments")),
            "message": ("output_text", "It is **sunny**."),
        }[str(item["type"])]
        place = {"output_index": index}
        bodies += [
            {"type": "response.output_item.added", "item": empty} | place,
            {"type": f"response.{kind}.delta", "delta": delta} | place,
            {"type": "response.output_item.done", "item": item} | place,
        ]
    ended = response | {"status": "completed", "output": output}
    bodies.append({"type": "response.completed", "response": ended})
    numbered = (json.dumps(body | {"sequence_number": k}) for k, body in enumerate(bodies))
    return "".join(f"data: {body}\n\n" for body in numbered).encode()


async def answered(
    page: Page, output: list[dict[str, object]], items: list[dict[str, object]]
) -> None:
    """From now on a message gets `output`, and the conversation then holds `items`."""
    held: list[dict[str, object]] = []

    async def respond(route: Route) -> None:
        held[:] = items
        await route.fulfill(body=events(output), content_type="text/event-stream")

    async def list_items(route: Route) -> None:
        after = re.search("after=([^&]+)", route.request.url)
        ids = [item["id"] for item in held]
        first = ids.index(after[1]) + 1 if after else 0
        await route.fulfill(json={"data": held[first:], "has_more": False, "last_id": None})

    await page.route(re.compile("/v1/responses$"), respond)
    await page.route(re.compile("/v1/responses/resp_1$"), lambda route: route.fulfill(status=404))
    await page.route(re.compile(r"/items\?"), list_items)


async def test_steps_are_folded_and_open(serve: Serve, open_page: OpenPage) -> None:
    page = await open_page(await serve(FakeEngine(last_user_words)))
    await answered(page, [THOUGHT, CALL, WORDS], [QUESTION, THOUGHT, CALL, OUTPUT, WORDS])
    await send(page, "Rome?")
    await done(page)
    for is_reloaded in (False, True):
        steps = page.locator("article.assistant details.step")
        await expect(steps.locator("summary")).to_have_text(["Thoughts", "Tool: weather"])
        await expect(answers(page).last).to_have_text("It is sunny.")
        await expect(steps.first.locator("em")).to_be_hidden()
        await steps.first.locator("summary").click()
        await expect(steps.first.locator("em")).to_have_text("Hm")
        await steps.last.locator("summary").focus()
        await page.keyboard.press("Enter")
        await expect(steps.last.get_by_label("Arguments")).to_have_text(CALL["arguments"])
        await expect(steps.last.get_by_label("Result")).to_have_text("<b>sunny</b>")
        await expect(page.locator("article.assistant")).to_have_count(1)
        if not is_reloaded:
            await page.reload()


async def test_a_call_waits_for_its_result(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(last_user_words)
    page = await open_page(await serve(engine))
    await answered(page, [CALL], [QUESTION, CALL])
    await send(page, "Rome?")
    step = page.locator("article.assistant details.step summary")
    await expect(step).to_have_text("Tool: weather, no result yet")
    await done(page)
    async with page.expect_request(re.compile("/v1/responses$")) as asked:
        await send(page, "Well?")
    body = json.loads((await asked.value).post_data or "")
    assert body["conversation"]["after"] == "fc_1"
    await expect(questions(page)).to_have_count(2)


async def test_a_model_thinks_before_it_answers(serve: Serve, open_page: OpenPage) -> None:
    engine = FakeEngine(says("Two and *two*.\n</think>\n\nFour."), manual=True)
    page = await open_page(await serve(engine, template=ALWAYS))
    await send(page, "2 + 2?")
    engine.allow(5)
    step = page.locator("article.assistant details.step")
    await expect(step.locator("summary")).to_have_text("Thinking…")
    await step.locator("summary").click()
    await expect(step.locator(".markdown")).to_have_text("Two a")
    engine.allow(100)
    await expect(answers(page).last).to_have_text("Four.")
    await expect(step.locator("summary")).to_have_text("Thoughts")
    await expect(step.locator("em")).to_be_visible()  # it stays open
    await expect(page.locator("#spoken")).to_have_text("Four.")
    await page.reload()
    await expect(answers(page)).to_have_text(["Two and two.", "Four."])
    await expect(step.locator("em")).to_be_hidden()
    await page.locator("article.assistant .facts summary").click()
    await expect(page.get_by_role("button", name="The same again")).to_be_visible()
