"""What llama.cpp's and vLLM's own tests of tools ask for, asked here: the same, but for what the
table in docs/tools.md says.

llama.cpp's with a model that knows nothing are switched off there (its `required` admits prose).
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import openai
import pytest

from tests.api.conftest import Connect
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_service, says
from tests.doubles.templates import TEMPLATES
from tests.doubles.tiny_engine import tiny_engine

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def function(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


SUCCESS = function("test", success={"type": "boolean", "const": True})
# A model of random weights ends no string of itself.
CODE = function("python", code={"type": "string", "maxLength": 30})
WEATHER = function("weather", location={"type": "string"})
JSON = {"json": {"type": "object"}}
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(params=TEMPLATES.values(), ids=map(str, TEMPLATES))
async def ignorant(request: pytest.FixtureRequest) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a model of random weights with a family's template."""
    async with AsyncExitStack() as stack:
        service = make_service(tiny_engine(), template=request.param)  # type: ignore[arg-type]
        url = await stack.enter_async_context(running_server(service))
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        yield await stack.enter_async_context(client)


@pytest.mark.parametrize(("tool", "key"), [(SUCCESS, "success"), (CODE, "code")])
async def test_a_model_that_knows_nothing_calls_what_it_must(
    ignorant: openai.AsyncOpenAI, tool: Any, key: str
) -> None:
    asked: Any = {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "You write code."},
            {"role": "user", "content": "An example."},
        ],
        "tools": [tool],
        "parallel_tool_calls": False,
        "max_tokens": 300,
    }
    named = {"type": "function", "function": {"name": tool["function"]["name"]}}
    for choice in ("required", named):
        for temperature in (0.0, 1.0):
            asked |= {"tool_choice": choice, "temperature": temperature, "seed": 1}
            whole = (await ignorant.chat.completions.create(**asked)).choices[0]
            assert whole.finish_reason == "tool_calls"
            assert whole.message.content is None
            (call,) = whole.message.tool_calls or ()
            assert call.type == "function" and call.function.name == tool["function"]["name"]
            assert key in json.loads(call.function.arguments)
            text = ""
            async for chunk in await ignorant.chat.completions.create(**asked, stream=True):
                delta = chunk.choices[0].delta
                assert not delta.content
                for piece in delta.tool_calls or ():
                    assert piece.function is not None
                    text += piece.function.arguments or ""
            assert text == call.function.arguments


@pytest.mark.parametrize("options", [{"tools": []}, {"tools": [WEATHER], "tool_choice": "none"}])
async def test_nothing_is_called_where_nothing_may_be(
    ignorant: openai.AsyncOpenAI, options: dict[str, Any]
) -> None:
    asked: Any = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **options}
    choice = (await ignorant.chat.completions.create(**asked, max_tokens=60)).choices[0]
    assert choice.message.tool_calls is None


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        (CHAT, {}, 200),
        (CHAT, {"tools": None}, 200),
        (CHAT, {"tools": []}, 200),  # vLLM: 400
        (CHAT, {"tool_choice": "none"}, 200),
        (CHAT, {"tool_choice": "auto"}, 200),  # vLLM: 400
        (CHAT, {"tool_choice": "required"}, 400),
        (CHAT, {"tool_choice": "required", "tools": []}, 400),
        (CHAT, {"tool_choice": NAMED, "tools": None}, 400),
        (CHAT, {"tool_choice": NAMED, "tools": [WEATHER]}, 200),
        # vLLM: 400, structured outputs or tools, not both
        (
            CHAT,
            {"tool_choice": NAMED, "tools": [WEATHER], "structured_outputs": JSON},
            200,
        ),
        (
            CHAT,
            {"tool_choice": "auto", "tools": [WEATHER], "structured_outputs": JSON},
            200,
        ),
        (CHAT, {"structured_outputs": JSON | {"regex": "a"}}, 400),
        (CHAT, {"structured_outputs": 3}, 400),
        (CHAT, {"parallel_tool_calls": None, "tools": [WEATHER]}, 200),
        (RESPONSES, {"tools": []}, 200),
        (RESPONSES, {"tool_choice": "none"}, 200),
        (RESPONSES, {"tool_choice": "auto"}, 200),
        (RESPONSES, {"tool_choice": "required"}, 400),
        (RESPONSES, {"tool_choice": "required", "tools": []}, 400),
        (RESPONSES, {"tool_choice": {"type": "function", "name": "weather"}}, 400),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, 400),  # vLLM: left out, unsaid
        *(
            (
                RESPONSES,
                {
                    "tools": [{"type": "function", **WEATHER["function"]}],
                    "tool_choice": {"type": "function", **named},
                },
                200 if named.get("name") == "weather" else 400,
            )
            for named in ({"name": "weather"}, {"name": "other"}, {"name": ""}, {})
        ),
    ],
)
async def test_what_is_taken_and_what_is_refused(
    connect_stored: Connect, path: str, options: dict[str, Any], status: int
) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"location": ""}}\n</tool_call>'
    client = await connect_stored(FakeEngine(says(call if options.get("tools") else "ok")))
    body = chat_body(**options) if path == CHAT else {"model": "demo", "input": "hi", **options}
    answer: httpx.Response = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    if path == RESPONSES and status == 200:
        shown = answer.json()
        assert (shown["parallel_tool_calls"], shown["tool_choice"]) == (
            True,
            options.get("tool_choice", "auto"),
        )
