"""Anthropic's Messages: what clients send, what they are answered, streamed and whole."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from llamastream.config import ServeSettings
from llamastream.errors import InternalError
from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.templates import ALWAYS, HYBRID
from tests.doubles.tokenizer import CHATML, text_of
from tests.doubles.waiting import until

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
ASKED = {"role": "user", "content": "hi"}


def body(**options: Any) -> dict[str, Any]:
    return {"model": "demo", "max_tokens": 100, "messages": [ASKED], **options}


def events_of(text: str) -> list[dict[str, Any]]:
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def added_up(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message, as the SDKs make it of its events."""
    message: dict[str, Any] = {}
    partial = ""
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                kind = event["delta"]["type"].removesuffix("_delta")
                if kind == "input_json":
                    partial += event["delta"]["partial_json"]
                else:
                    message["content"][-1][kind] += event["delta"][kind]
            case "content_block_stop":
                if partial:
                    message["content"][-1]["input"] = json.loads(partial)
                partial = ""
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    return message


def prompt_of(engine: FakeEngine) -> str:
    return text_of(engine.submitted[-1].prompt_ids)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(says("Four, é."))


@pytest.fixture
async def client(connect: Connect, engine: FakeEngine) -> httpx.AsyncClient:
    return await connect(engine)


async def test_events_come_in_anthropics_order(client: httpx.AsyncClient) -> None:
    answer = await client.post(MESSAGES, json=body(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events_of(answer.text)
    kinds = [event["type"] for event in found]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    start = found[0]["message"]
    assert start["usage"]["input_tokens"] == len("<|user\nhi|\n<|assistant\n") - 2
    assert (start["content"], start["stop_reason"]) == ([], None)
    assert found[-2]["usage"]["output_tokens"] == len("Four, é.".encode()) + 1


@pytest.mark.parametrize(
    ("template", "text", "options", "blocks"),
    [
        (CHATML, "Four.", {}, ["text"]),
        (CHATML, "Four.", {"stop_sequences": ["ur"]}, ["text"]),
        (CHATML, "Four.", {"max_tokens": 2}, ["text"]),
        (CHATML, "", {}, []),
        (ALWAYS, "Hm, so.\n</think>\n\nFour.", {}, ["thinking", "text"]),
        (ALWAYS, "Hm, so.\n</think>\n\nFour.", {"max_tokens": 3}, ["thinking"]),
        (HYBRID, "<think>\nHm\n</think>\nFour.", {"thinking": {"type": "adaptive"}}, None),
    ],
)
async def test_what_is_streamed_adds_up_to_the_whole(
    connect: Connect, template: str, text: str, options: dict[str, Any], blocks: list[str] | None
) -> None:
    client = await connect(FakeEngine(says(text)), template=template)
    whole = (await client.post(MESSAGES, json=body(**options))).json()
    kinds = [block["type"] for block in whole["content"]]
    assert kinds == (["thinking", "text"] if blocks is None else blocks)
    assert not any("citations" in block for block in whole["content"])  # the AI SDK takes no null
    streamed = added_up(
        events_of((await client.post(MESSAGES, json=body(stream=True, **options))).text)
    )
    assert streamed["id"].startswith("msg_")
    assert streamed | {"id": whole["id"]} == whole


@pytest.mark.parametrize(
    ("options", "reason", "stop", "text"),
    [
        ({}, "end_turn", None, "Four, é."),
        ({"stop_sequences": ["x", ", "]}, "stop_sequence", ", ", "Four"),
        ({"max_tokens": 4}, "max_tokens", None, "Four"),
        ({"max_tokens": 0}, "max_tokens", None, None),
    ],
)
async def test_why_it_ended(
    client: httpx.AsyncClient,
    options: dict[str, Any],
    reason: str,
    stop: str | None,
    text: str | None,
) -> None:
    message = (await client.post(MESSAGES, json=body(**options))).json()
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)
    assert [block["text"] for block in message["content"]] == ([] if text is None else [text])


async def test_more_tokens_than_there_is_room_for_are_fewer(connect: Connect) -> None:
    engine = FakeEngine(lambda _: [65], max_model_len=40)
    client = await connect(engine)
    message = (await client.post(MESSAGES, json=body(max_tokens=32_000))).json()
    assert message["stop_reason"] == "model_context_window_exceeded"
    usage = message["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == 40
    answer = await client.post(
        MESSAGES, json=body(messages=[{"role": "user", "content": "x" * 60}])
    )
    assert answer.status_code == 400
    assert "prompt is too long: " in answer.json()["error"]["message"]  # Claude Code


SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=ab12;"},
    {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"type": "text", "text": "Be brief."},
]
TEXTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "citations": None}]
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "s"}


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"system": "Be kind."}, "system\nBe kind.\nuser\nhi\n"),
        ({"system": SYSTEM}, "system\nBe kind.\n\nBe brief.\nuser\nhi\n"),
        ({"system": SYSTEM[:1]}, "user\nhi\n"),
        ({"system": ""}, "user\nhi\n"),
        ({"system": []}, "user\nhi\n"),
        ({"messages": [{"role": "user", "content": TEXTS}]}, "user\na\n\nb\n"),
        ({"messages": [ASKED, {"role": "user", "content": TEXTS}]}, "user\nhi\n\na\n\nb\n"),
        (
            {"messages": [ASKED, {"role": "system", "content": "Be kind."}]},  # Claude Code
            "user\nhi\nsystem\nBe kind.\n",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "Yes."},
                    {"role": "assistant", "content": [THOUGHT, *TEXTS]},
                    ASKED,
                ]
            },
            "assistant\nYes.a\n\nb\nuser\nhi\n",
        ),
    ],
)
async def test_a_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, options: dict[str, Any], prompt: str
) -> None:
    answer = await client.post(MESSAGES, json=body(**options))
    assert answer.status_code == 200, answer.text
    assert prompt_of(engine) == prompt + "assistant\n"
    options = {name: options[name] for name in options if name != "max_tokens"}
    counted = (
        await client.post(COUNT, json={"model": "demo", "messages": [ASKED], **options})
    ).json()
    assert counted == {"input_tokens": len(engine.submitted[-1].prompt_ids)}


@pytest.mark.parametrize("content", ["The answer is", [{"type": "text", "text": "The answer is"}]])
async def test_an_answer_that_was_begun_goes_on(
    client: httpx.AsyncClient, engine: FakeEngine, content: Any
) -> None:
    messages = [ASKED, {"role": "assistant", "content": content}]
    message = (await client.post(MESSAGES, json=body(messages=messages))).json()
    assert message["content"][0]["text"] == "Four, é."
    assert prompt_of(engine).endswith("assistant\nThe answer is")
    messages[-1] = {"role": "assistant", "content": ""}
    assert (await client.post(MESSAGES, json=body(messages=messages))).status_code == 200
    assert prompt_of(engine).endswith("assistant\n")


USER = {"role": "user"}
IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [USER | {"content": ""}]}, "messages[0]: all messages must have non-empty"),
        ({"messages": [USER | {"content": []}]}, "must have non-empty content"),
        (
            {"messages": [USER | {"content": [{"type": "text", "text": " "}]}]},
            "non-whitespace text",
        ),
        (
            {"messages": [USER | {"content": [IMAGE]}]},
            "messages[0].content[0].type: must be 'text'",
        ),
        ({"messages": [USER | {"content": [1]}]}, "messages[0].content[0]"),
        ({"messages": [USER | {"content": 1}]}, "messages[0].content"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [ASKED | {"role": "tool"}]}, "messages[0].role"),
        ({"messages": [ASKED | {"name": "x"}]}, "messages[0].name"),
        ({"messages": [ASKED, {"role": "assistant", "content": "A "}]}, "trailing whitespace"),
        ({"messages": [USER | {"content": [THOUGHT]}]}, "messages[0].content[0].type"),
        ({"system": [IMAGE]}, "system[0].type"),
        ({"system": 1}, "system"),
        ({"stop_sequences": [" "]}, "stop_sequences[0]"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": -2}, "top_k"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is required"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1}}, "thinking.budget_tokens"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000},
            "must be less than max_tokens (2000)",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 3000},
            "thinking cannot be followed",  # this model does not
        ),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers is not supported"),
        ({"container": "x"}, "container"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"stop": ["x"]}, "'stop'"),
    ],
)
async def test_what_is_refused_is_named(
    client: httpx.AsyncClient, options: dict[str, Any], said: str
) -> None:
    answer = await client.post(MESSAGES, json=body(**options))
    error = answer.json()
    assert (answer.status_code, error["type"]) == (400, "error"), answer.text
    assert error["error"]["type"] == "invalid_request_error"
    assert said in error["error"]["message"]


async def test_threads_are_refused_in_the_words_that_sdks_go_on_from(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(MESSAGES, json=body(thread={"type": "create"}))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


async def test_what_asks_for_nothing_is_taken(client: httpx.AsyncClient) -> None:
    options = {
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "cache_control": {"type": "ephemeral"},
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "tools": [],
        "stop_sequences": [],
    }
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "effort-2025-11-24"}
    answer = await client.post(f"{MESSAGES}?beta=true", json=body(**options), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("template", "thinking", "end"),
    [
        (HYBRID, None, "assistant\n<think>\n\n</think>\n\n"),
        (HYBRID, {"type": "disabled"}, "assistant\n<think>\n\n</think>\n\n"),
        (HYBRID, {"type": "adaptive"}, "assistant\n"),
        (HYBRID, {"type": "enabled", "budget_tokens": 1024}, "assistant\n"),
        (ALWAYS, None, "<think>\n"),
        (ALWAYS, {"type": "enabled", "budget_tokens": 1024}, "<think>\n"),
        (ALWAYS, {"type": "disabled"}, None),
        (CHATML, {"type": "disabled"}, "assistant\n"),
    ],
)
async def test_thinking(
    connect: Connect, template: str, thinking: dict[str, Any] | None, end: str | None
) -> None:
    engine = FakeEngine(says("a</think>b"))
    client = await connect(engine, template=template)
    answer = await client.post(MESSAGES, json=body(max_tokens=2000, thinking=thinking))
    assert answer.status_code == (200 if end else 400)
    if end is not None:
        assert prompt_of(engine).endswith(end)


async def test_thinking_comes_back_signed(connect: Connect) -> None:
    engine = FakeEngine(says("Hm\n</think>\n\nFour."))
    client = await connect(engine, template=ALWAYS)
    thought, _ = (await client.post(MESSAGES, json=body())).json()["content"]
    assert thought["thinking"] == "Hm"
    assert len(thought["signature"]) == 64


ERRORS = [
    ({"model": "other"}, {}, 404, "not_found_error"),
    ({}, {"anthropic-version": "2020-01-01"}, 400, "invalid_request_error"),
    ({}, {"x-api-key": "wrong"}, 401, "authentication_error"),
    ({"system": "x" * 200_000}, {}, 413, "request_too_large"),
]


@pytest.mark.parametrize(("options", "headers", "status", "kind"), ERRORS)
@pytest.mark.parametrize("path", [MESSAGES, COUNT])
async def test_errors_have_anthropics_shape(
    connect: Connect,
    path: str,
    options: dict[str, Any],
    headers: dict[str, str],
    status: int,
    kind: str,
) -> None:
    settings = ServeSettings(api_key="secret", max_body_mib=0.1)
    client = await connect(FakeEngine(says("ok")), settings)
    sent = body(**options)
    if path == COUNT:
        del sent["max_tokens"]
    answer = await client.post(path, json=sent, headers={"x-api-key": "secret"} | headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.json()["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("header", [{"x-api-key": "secret"}, {"authorization": "Bearer secret"}])
async def test_a_key_comes_in_either_header(connect: Connect, header: dict[str, str]) -> None:
    client = await connect(FakeEngine(says("ok")), ServeSettings(api_key="secret"))
    assert (await client.post(MESSAGES, json=body(), headers=header)).status_code == 200


async def test_a_path_that_is_not_there_and_a_wrong_method(client: httpx.AsyncClient) -> None:
    for answer, status in (
        (await client.post(f"{MESSAGES}/batches", json={}), 404),
        (await client.get(MESSAGES), 405),
        (await client.post(MESSAGES, content=b"{"), 400),
    ):
        assert (answer.status_code, answer.json()["type"]) == (status, "error")


async def test_a_full_server_says_that_it_is(connect: Connect) -> None:
    engine = FakeEngine(says("ok"), manual=True, max_num_seqs=1, max_num_waiting=0)
    client = await connect(engine)
    first = asyncio.create_task(client.post(MESSAGES, json=body()))
    await until(lambda: len(engine.submitted) == 1)
    answer = await client.post(MESSAGES, json=body())
    assert (answer.status_code, answer.json()["error"]["type"]) == (529, "overloaded_error")
    assert answer.headers["retry-after"] == "7"
    engine.allow(3)
    assert (await first).status_code == 200


async def test_an_error_in_mid_stream_is_an_event(connect: Connect) -> None:
    engine = FakeEngine(says("Four."), manual=True)
    client = await connect(engine)
    async with client.stream("POST", MESSAGES, json=body(stream=True)) as answer:
        engine.allow(2)
        await until(lambda: engine.num_steps == 2)
        engine.fail(engine.submitted[0].request_id, InternalError("broken"))
        text = "".join([part async for part in answer.aiter_text()])
    assert events_of(text)[-1]["error"] == {"type": "api_error", "message": "broken"}


async def test_a_client_that_leaves_ends_its_answer(connect: Connect) -> None:
    engine = FakeEngine(lambda _: [65])
    client = await connect(engine)
    async with client.stream("POST", MESSAGES, json=body(stream=True, max_tokens=4000)) as answer:
        await anext(answer.aiter_text())
    await until(lambda: len(engine.cancelled) == 1)


async def test_models_are_shown_as_the_client_knows_them(client: httpx.AsyncClient) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    page = (await client.get("/v1/models?limit=1000", headers=headers)).json()
    assert (page["first_id"], page["has_more"]) == ("demo", False)
    assert page["data"][0]["type"] == "model"
    assert (await client.get("/v1/models/demo", headers=headers)).json() == page["data"][0]
    error = (await client.get("/v1/models/x", headers=headers)).json()
    assert error["error"]["type"] == "not_found_error"
    assert (await client.get("/v1/models")).json()["object"] == "list"


async def test_an_answer_keeps_to_a_schema(connect: Connect) -> None:
    engine = FakeEngine(says('{"a":1}'))
    client = await connect(engine)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    options = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    assert (await client.post(MESSAGES, json=body(**options))).status_code == 200
    assert engine.submitted[-1].grammar is not None


WEATHER = {
    "name": "weather",
    "description": "Of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("template", "text", "kinds"),
    [
        (CHATML, CALL, ["tool_use"]),
        (CHATML, f"I look.\n{CALL}\n{CALL}", ["text", "tool_use", "tool_use"]),
        (ALWAYS, f"Hm.</think>\n{CALL}", ["thinking", "tool_use"]),
        (ALWAYS, f"Or {CALL}?</think>No.", ["thinking", "text"]),
    ],
)
async def test_calls(connect: Connect, template: str, text: str, kinds: list[str]) -> None:
    client = await connect(FakeEngine(says(text)), template=template)
    options = {"tools": [WEATHER], "max_tokens": 300}
    whole = (await client.post(MESSAGES, json=body(**options))).json()
    assert [block["type"] for block in whole["content"]] == kinds
    calls = [block for block in whole["content"] if block["type"] == "tool_use"]
    assert all((c["name"], c["input"]) == ("weather", {"city": "Rome"}) for c in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    assert whole["stop_reason"] == ("tool_use" if calls else "end_turn")
    answer = await client.post(MESSAGES, json=body(stream=True, **options))
    streamed = added_up(events_of(answer.text))
    for block, other in zip(streamed["content"], whole["content"], strict=True):
        assert block | {"id": other.get("id")} == other | {"id": other.get("id")}
    assert streamed["stop_reason"] == whole["stop_reason"]


CALLED = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
    ],
}


def result(**fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", **fields}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([result(content="Sun.")], "Sun."),
        ([result(content=[{"type": "text", "text": "Sun."}])], "Sun."),
        ([result()], ""),
        ([result(content=[])], ""),
        ([result(content="no such city", is_error=True)], "Error: no such city"),
        ([result(content="An error.", is_error=True)], "An error."),
        ([{"type": "text", "text": "Here."}, result(content="Sun.")], "Sun."),
    ],
)
async def test_results(
    client: httpx.AsyncClient, engine: FakeEngine, content: Any, said: str
) -> None:
    messages = [ASKED, CALLED, {"role": "user", "content": content}]
    answer = await client.post(MESSAGES, json=body(messages=messages, tools=[WEATHER]))
    assert answer.status_code == 200, answer.text
    prompt = prompt_of(engine)
    assert f"<tool_response>\n{said}\n</tool_response>" in prompt
    assert '{"city": "Rome"}' in prompt
    assert len(content) == 1 or prompt.endswith("Here.\nassistant\n")
    count = {"model": "demo", "messages": messages, "tools": [WEATHER]}
    counted = (await client.post(COUNT, json=count)).json()
    assert counted["input_tokens"] == len(engine.submitted[-1].prompt_ids)


@pytest.mark.parametrize(
    ("choice", "is_required", "names"),
    [
        (None, False, None),
        ({"type": "auto", "disable_parallel_tool_use": True}, False, None),
        ({"type": "any"}, True, None),
        ({"type": "tool", "name": "weather"}, True, ("weather",)),
    ],
)
async def test_choices(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    choice: Any,
    is_required: bool,
    names: tuple[str, ...] | None,
) -> None:
    answer = await client.post(MESSAGES, json=body(tools=[WEATHER], tool_choice=choice))
    assert answer.status_code == 200, answer.text
    grammar = engine.submitted[-1].grammar
    assert grammar is not None
    text = bytes(grammar.start().mask())
    assert bool(text[ord("F") // 8] >> ord("F") % 8 & 1) is not is_required  # prose


async def test_no_tool_is_offered_with_none(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    options = {"tools": [WEATHER], "tool_choice": {"type": "none"}}
    assert (await client.post(MESSAGES, json=body(**options))).status_code == 200
    assert "weather" not in prompt_of(engine)
    assert engine.submitted[-1].grammar is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER, WEATHER]}, "Given twice: 'weather'"),
        ({"tools": [WEATHER | {"input_examples": [{"city": "Rome"}]}]}, "input_examples"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "'x'"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"messages": [ASKED, CALLED, ASKED]}, "`tool_use` ids were found without"),
        ({"messages": [ASKED, CALLED]}, "`tool_use` ids were found without"),
        ({"messages": [{"role": "user", "content": [result()]}]}, "unexpected `tool_use_id`"),
        (
            {
                "messages": [
                    ASKED,
                    CALLED,
                    {"role": "user", "content": [result(content=[IMAGE])]},
                ]
            },
            "messages[2].content[0].content[0].type: must be 'text'",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [CALLED["content"][1] | {"input": "x"}]}
                ]
            },
            "input: must be an object",
        ),
    ],
)
async def test_tools_that_are_refused(
    client: httpx.AsyncClient, options: dict[str, Any], said: str
) -> None:
    answer = await client.post(MESSAGES, json=body(**options))
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]
