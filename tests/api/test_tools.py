"""Tools over every interface: what a model calls, and what it is told of calls and results."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from llamastream.types import GenerationRequest
from tests.api.conftest import Connect, openai_client
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.tokenizer import IM_END

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "How it is.", "parameters": CITY}
CHAT_TOOLS = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "now"}},
]
TOOLS = [{"type": "function", **WEATHER}, {"type": "function", "name": "now"}]
FIRST = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo \\"}<"}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
SAID = f"I look.\n{FIRST}\n{SECOND}"
CALLS = [("weather", '{"city": "Oslo \\"}<"}'), ("now", "{}")]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


def turns(*texts: str) -> FakeEngine:
    """An engine whose n-th request answers the n-th text, and the last ever after."""
    seen: dict[str, int] = {}

    def script(request: GenerationRequest) -> list[int]:
        number = seen.setdefault(request.request_id, len(seen))
        return [*texts[min(number, len(texts) - 1)].encode(), IM_END]

    return FakeEngine(script)


def prompt_of(engine: FakeEngine) -> str:
    return bytes(i for i in engine.submitted[-1].prompt_ids if i < 256).decode()


@pytest.mark.parametrize("tokens_per_step", [1, 7, 1000])
async def test_streamed_calls_are_the_whole_ones(
    connect: Connect, stack: AsyncExitStack, tokens_per_step: int
) -> None:
    engine = FakeEngine(says(SAID), tokens_per_step=tokens_per_step)
    client = await stack.enter_async_context(openai_client(await connect(engine)))
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": "hi"}],
        "tools": CHAT_TOOLS,
    }
    whole = (await client.chat.completions.create(**asked)).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content == "I look."
    assert whole.message.tool_calls is not None
    made = [call.function for call in whole.message.tool_calls if call.type == "function"]
    assert [(one.name, one.arguments) for one in made] == CALLS
    assert len({call.id for call in whole.message.tool_calls}) == 2
    text, calls, reason = "", list[list[str]](), None
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for piece in delta.tool_calls or ():
            assert piece.function is not None
            if piece.id is not None:
                assert piece.index == len(calls)
                assert piece.function.name is not None
                calls.append([piece.function.name, ""])
            calls[piece.index][1] += piece.function.arguments or ""
            assert not delta.content
        reason = chunk.choices[0].finish_reason or reason
    assert (text, [tuple(call) for call in calls], reason) == ("I look.", CALLS, "tool_calls")


async def test_a_loop_of_calls_and_results(connect: Connect, stack: AsyncExitStack) -> None:
    engine = turns(SAID, "Cold.")
    client = await stack.enter_async_context(openai_client(await connect(engine)))
    messages: list[Any] = [{"role": "user", "content": "How is Oslo?"}]
    first = await client.chat.completions.create(model="demo", messages=messages, tools=CHAT_TOOLS)
    assert "How it is." in prompt_of(engine)
    message = first.choices[0].message
    messages.append(message.model_dump())
    for call in message.tool_calls or ():
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "-3"})
    second = await client.chat.completions.create(model="demo", messages=messages, tools=CHAT_TOOLS)
    assert second.choices[0].message.content == "Cold."
    assert second.choices[0].finish_reason == "stop"
    assert SAID in prompt_of(engine)
    assert prompt_of(engine).count("<tool_response>\n-3\n</tool_response>") == 2


async def test_what_clients_send_of_tools(connect: Connect, stack: AsyncExitStack) -> None:
    client = await connect(FakeEngine(says("ok")))
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
    said = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"role": "assistant", "tool_calls": [call | {"id": "b", "index": 0}]},
        {"role": "tool", "tool_call_id": "b", "content": "", "name": "f"},
    ]
    for tools in (
        [{"type": "function", "function": {"name": "f", "parameters": {}, "strict": None}}],
        [{"type": "function", "function": {"name": "f", "description": None}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        [{"type": "function", "function": {"name": "f", "parameters": CITY | {"$defs": {}}}}],
        [],
        None,
    ):
        for choice in ("auto", "none", None):
            body = chat_body(tools=tools, tool_choice=choice, messages=said)
            answer = await client.post(CHAT, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"] == {
                "role": "assistant",
                "content": "ok",
                "refusal": None,
            }


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "function", "function": {"name": "now"}}, ["now"]),
        ({"type": "function", "name": "now"}, ["now"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "now"}}],
                },
            },
            ["now"],
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "now"}],
            },
            ["now"],
        ),
    ],
)
async def test_choices_of_both_interfaces(
    connect: Connect, choice: dict[str, Any], names: list[str]
) -> None:
    engine = FakeEngine(says(SECOND))
    client = await connect(engine)
    body = chat_body(tools=CHAT_TOOLS, tool_choice=choice)
    assert (await client.post(CHAT, json=body)).status_code == 200
    grammar = engine.submitted[-1].grammar
    assert grammar is not None
    constraint = grammar.start()
    for token_id in SECOND.encode():
        assert int.from_bytes(constraint.mask(), "little") >> token_id & 1
        constraint.append([token_id])
    assert constraint.num_allowed(b"\n<tool_call>") == (0 if "function" in choice["type"] else 12)


async def test_stop_strings_are_for_text_alone(connect: Connect) -> None:
    client = await connect(FakeEngine(says(SAID)))
    body = chat_body(tools=CHAT_TOOLS, stop=["Oslo", "name"])
    choice = (await client.post(CHAT, json=body)).json()["choices"][0]
    assert len(choice["message"]["tool_calls"]) == 2
    body = chat_body(tools=CHAT_TOOLS, stop=["look"])
    choice = (await client.post(CHAT, json=body)).json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "I ", "refusal": None}
    assert choice["finish_reason"] == "stop"


async def test_a_cut_call_is_no_end(connect: Connect) -> None:
    client = await connect(FakeEngine(says(SAID)))
    body = chat_body(tools=CHAT_TOOLS, max_tokens=60)
    choice = (await client.post(CHAT, json=body)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city"'}


async def test_a_stored_chat_shows_its_calls_again(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(SAID)))
    body = chat_body(tools=CHAT_TOOLS, store=True)
    first = (await client.post(CHAT, json=body)).json()
    again = (await client.get(f"{CHAT}/{first['id']}")).json()
    assert again["choices"] == first["choices"]
    listed = (await client.get(CHAT)).json()["data"][0]
    assert listed["choices"] == first["choices"]


def replayed(found: list[Any]) -> dict[str, Any]:
    """What the events say, checked on the way."""
    items: dict[int, dict[str, Any]] = {}
    for number, event in enumerate(found):
        assert event["sequence_number"] == number
        kind, index = event["type"].removeprefix("response."), event.get("output_index")
        if kind == "output_item.added":
            assert index == len(items)
            items[index] = dict(event["item"])
        elif kind == "output_text.delta":
            items[index]["text"] = items[index].get("text", "") + event["delta"]
        elif kind == "function_call_arguments.delta":
            assert event["item_id"] == items[index]["id"]
            items[index]["arguments"] += event["delta"]
        elif kind == "custom_tool_call_input.delta":
            items[index]["input"] += event["delta"]
        elif kind == "output_item.done":
            was, item = items[index], event["item"]
            if item["type"] == "message":
                assert item["content"][0]["text"] == was["text"]
            else:
                assert item == was | {"status": item["status"]}
            items[index] = item
    whole: dict[str, Any] = found[-1]["response"]
    assert whole["output"] == list(items.values())
    return whole


def data_of(text: str) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


async def streamed(client: httpx.AsyncClient, **options: Any) -> list[Any]:
    body = {"model": "demo", "input": "hi", "tools": TOOLS, "stream": True, **options}
    async with client.stream("POST", RESPONSES, json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        return data_of((await answer.aread()).decode())


async def test_events_of_a_response_with_calls(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says(SAID)))
    found = await streamed(client)
    whole = replayed(found)
    message, *calls = whole["output"]
    assert message["content"][0]["text"] == "I look."
    assert [(call["name"], call["arguments"]) for call in calls] == CALLS
    assert whole["tools"][0]["name"] == "weather"
    stored = (await client.get(f"{RESPONSES}/{whole['id']}")).json()
    assert stored == whole
    for after in range(-1, len(found)):
        params = {"stream": "true", "starting_after": after} if after >= 0 else {"stream": "true"}
        async with client.stream("GET", f"{RESPONSES}/{whole['id']}", params=params) as answer:
            got = data_of((await answer.aread()).decode())
            assert got == found[min(after + 1, len(found) - 1) :]


async def test_a_conversation_goes_on_from_calls(
    connect_stored: Connect, stack: AsyncExitStack
) -> None:
    engine = turns(SAID, "Cold.")
    client = await stack.enter_async_context(openai_client(await connect_stored(engine)))
    first = await client.responses.create(model="demo", input="How is Oslo?", tools=TOOLS)  # type: ignore[arg-type]
    results: list[Any] = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "-3"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = await client.responses.create(
        model="demo",
        previous_response_id=first.id,
        input=results,
        tools=TOOLS,  # type: ignore[arg-type]
    )
    assert second.output_text == "Cold."
    assert SAID in prompt_of(engine)
    assert prompt_of(engine).count("-3") == 2
    items = await client.responses.input_items.list(second.id)
    assert [item.type for item in items.data][:2] == ["function_call_output"] * 2
    references: list[Any] = [{"type": "item_reference", "id": item.id} for item in first.output]
    asked: list[Any] = [{"role": "user", "content": "How is Oslo?"}, *references, *results]
    await client.responses.create(model="demo", input=asked, tools=TOOLS)  # type: ignore[arg-type]
    assert SAID in prompt_of(engine)


RESULT = {"type": "function_call_output", "call_id": "call_x", "output": "1"}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "call_x", "content": "1"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RESPONSES, {"input": [RESULT]}),
        (RESPONSES, {"input": [{"role": "user", "content": "a"}, RESULT]}),
        (CHAT, {"messages": [{"role": "tool", "tool_call_id": "call_x", "content": "1"}]}),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": [TOOL_RESULT]}], "max_tokens": 9},
        ),
    ],
)
async def test_an_unknown_result_is_refused(
    connect_stored: Connect, path: str, body: dict[str, Any]
) -> None:
    client = await connect_stored(FakeEngine(says("ok")))
    answer = await client.post(path, json={"model": "demo", **body})
    assert answer.status_code == 400
    assert "call_x" in answer.json()["error"]["message"]


async def test_a_custom_tool_is_called_with_a_text(connect_stored: Connect) -> None:
    patch = "*** Begin\n+</tool_call>{\n*** End"
    said = f'<tool_call>\n{{"name": "patch"}}\n{patch}'
    engine = turns(said, "Done.")
    client = await connect_stored(engine)
    grammar = 'start: "*** Begin\\n" ("+" /[^\\n]*/ "\\n")+ "*** End"'
    format = {"type": "grammar", "syntax": "lark", "definition": grammar}
    tools = [*TOOLS, {"type": "custom", "name": "patch", "format": format}]
    whole = replayed(await streamed(client, tools=tools))
    (call,) = whole["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", patch)
    constraint = engine.submitted[-1].grammar.start()  # type: ignore[union-attr]
    assert constraint.num_allowed(said.encode()) == len(said.encode())
    wrong = said.replace("+", "-").encode()
    assert constraint.num_allowed(wrong) == said.index("+")
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "ok"}
    body = {"model": "demo", "previous_response_id": whole["id"], "input": [result]}
    answer = await client.post(RESPONSES, json=body)
    assert answer.json()["output"][0]["content"][0]["text"] == "Done."
    assert patch in prompt_of(engine)


async def test_tools_of_a_namespace_are_called_by_both_names(connect_stored: Connect) -> None:
    said = FIRST.replace("weather", "sky:weather") + f"\n{SECOND}"
    engine = turns(said, "Cold.")
    client = await connect_stored(engine)
    inside = {"type": "namespace", "name": "sky", "description": "Above.", "tools": TOOLS[:1]}
    tools = [inside, *TOOLS]
    whole = replayed(await streamed(client, tools=tools))
    assert whole["tools"][0]["tools"][0]["name"] == "weather"
    first, second = whole["output"]
    assert (first["namespace"], first["name"]) == ("sky", "weather")
    assert "namespace" not in second
    assert "Above.\n\nHow it is." in prompt_of(engine).encode().decode("unicode_escape")
    constraint = engine.submitted[-1].grammar.start()  # type: ignore[union-attr]
    assert constraint.num_allowed(said.encode()) == len(said.encode())
    results = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "-3"}
        for call in whole["output"]
    ]
    asked = [{"role": "user", "content": "hi"}, *whole["output"], *results]
    for more in ({"input": asked}, {"previous_response_id": whole["id"], "input": results}):
        answer = await client.post(RESPONSES, json={"model": "demo", "tools": tools, **more})
        assert answer.json()["output"][0]["content"][0]["text"] == "Cold."
        assert said in prompt_of(engine)
    choice = {"type": "function", "namespace": "sky", "name": "weather"}
    body = {"model": "demo", "input": "hi", "tools": tools[:1], "tool_choice": choice}
    assert (await client.post(RESPONSES, json=body)).status_code == 200
    body["tools"] = [inside | {"tools": TOOLS[:1] * 2}]
    error = (await client.post(RESPONSES, json=body)).json()["error"]
    assert error["param"] == "tools[0].tools[1].name"
    many = [{"type": "function", "name": f"f{k}"} for k in range(127)]
    body["tools"] = [inside | {"tools": TOOLS}, *many]
    error = (await client.post(RESPONSES, json=body)).json()["error"]
    assert error["message"].endswith("Given: 129.")


async def test_official_client_reads_the_stream(
    connect_stored: Connect, stack: AsyncExitStack
) -> None:
    client = await stack.enter_async_context(
        openai_client(await connect_stored(FakeEngine(says(SAID))))
    )
    async with client.responses.stream(model="demo", input="hi", tools=TOOLS) as stream:  # type: ignore[arg-type]
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds.count("response.function_call_arguments.done") == 2
    calls = [item for item in final.output if item.type == "function_call"]
    assert [json.loads(call.arguments) for call in calls] == [{"city": 'Oslo "}<'}, {}]


async def test_what_codex_sends_of_itself_is_taken(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("ok")))
    more = {"client_metadata": {"turn_id": "x" * 5000}, "reasoning": {"summary": "auto"}}
    body = {"model": "demo", "input": "hi", "store": False, **more}
    body["include"] = ["reasoning.encrypted_content"]
    assert (await client.post(RESPONSES, json=body)).status_code == 200
    body["reasoning"] = {"summary": "detailed"}
    error = (await client.post(RESPONSES, json=body)).json()["error"]
    assert error["param"] == "reasoning.summary"


@pytest.mark.parametrize("arguments", ["[" * 5000, "[" * 5000 + "]" * 5000, "1e999", '"', ""])
async def test_odd_arguments_in_a_history_are_taken(connect: Connect, arguments: str) -> None:
    client = await connect(FakeEngine(says("ok"), max_model_len=50_000))
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": None},
    ]
    assert (await client.post(CHAT, json=chat_body(messages=messages))).status_code == 200


@pytest.mark.parametrize(
    "choice",
    [
        5,
        "any",
        {"type": ["a"]},
        {"type": "function"},
        {"type": "allowed_tools", "allowed_tools": [1]},
        {"type": "allowed_tools", "tools": [{"type": "function", "function": "f"}]},
        {"type": "allowed_tools", "tools": [{"type": 5}]},
    ],
)
async def test_odd_choices_are_refused(connect: Connect, choice: Any) -> None:
    client = await connect(FakeEngine(says("ok")))
    answer = await client.post(CHAT, json=chat_body(tools=CHAT_TOOLS, tool_choice=choice))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("tool_choice")
