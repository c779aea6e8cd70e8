"""Everything wrong in a request is answered in OpenAI's error shape, naming field and value."""

import gzip
import json
from typing import Any

import httpx
import pytest

from llamastream.config import ServeSettings
from tests.api.conftest import Connect
from tests.api.schemas import needs_schemas, validate
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

CHAT = "/v1/chat/completions"
HUGE = 10**30
USER = {"role": "user", "content": "hi"}


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


TOOL = tool()

# option, value, what the message must hold, param (None: the option)
OPTIONS: list[tuple[str, Any, str, str | None]] = [
    ("frobnicate", 1, "Unknown option: 'frobnicate'", None),
    ("temprature", 1, "Did you mean 'temperature'", None),
    ("temperature", "warm", "Given: 'warm'", None),
    ("temperature", -0.1, ">= 0", None),
    ("temperature", 1e9, "<= 100", None),
    ("temperature", True, "valid number", None),
    ("top_p", 0, "> 0", None),
    ("user", 5, "user must be a valid string. Given: 5.", None),
    ("top_p", 1.5, "1.5", None),
    ("min_p", 2, "<= 1", None),
    ("top_k", -2, "-1", None),
    ("top_k", 1.5, "integer", None),
    ("repetition_penalty", 0, "> 0", None),
    ("presence_penalty", 3, "<= 2", None),
    ("frequency_penalty", -3, ">= -2", None),
    ("max_tokens", 0, "greater than or equal to 1. Given: 0", None),
    ("max_tokens", -5, "Given: -5", None),
    ("max_tokens", HUGE, "max_tokens holds a number out of range", None),
    ("max_tokens", 2**31, "less than or equal to 2147483647", None),
    ("max_tokens", "10", "integer", None),
    ("max_tokens", 1.5, "integer", None),
    ("max_completion_tokens", 0, "Given: 0", None),
    ("max_tokens", 100_000, "100000", "messages"),
    ("n", 0, "Given: 0", None),
    ("n", 129, "128", None),
    ("seed", 2**64, "seed", None),
    ("seed", "x", "integer", None),
    ("stop", ["a"] * 17, "stop must have at most 16 items. Given: ", None),
    ("stop", ["a" * 257], "at most 256", "stop[0]"),
    ("stop", 5, "list", None),
    ("stop", [1], "string", "stop[0]"),
    ("logit_bias", {"x": 1}, "token ids", None),
    ("logit_bias", {"01": 1}, "token ids", None),
    ("logit_bias", {"9" * 30: 1}, "token ids", None),
    ("logit_bias", {"5": 101}, "<= 100", None),
    ("logit_bias", [1], "dictionary", None),
    ("logit_bias", {"5": "a"}, "number", "logit_bias[5]"),
    ("logprobs", 1, "boolean", None),
    ("top_logprobs", 3, "needs `logprobs: true`", None),
    ("top_logprobs", 21, "20", None),
    ("stream", "yes", "boolean", None),
    ("stream_options", {"include_usage": True}, "only with `stream: true`", None),
    ("stream_options", {"foo": 1}, "foo", "stream_options.foo"),
    ("stop_token_ids", ["a"], "integer", "stop_token_ids[0]"),
    ("truncation", "middle", "'disabled' or 'auto'", None),
    ("metadata", {"a": 1}, "string", "metadata.a"),
    ("user", "x" * 600, "512", None),
    ("model", 5, "string", None),
    ("messages", [], "at least 1", None),
    ("messages", "hi", "list", None),
    ("messages", ["hi"], "dictionary", "messages[0]"),
    ("messages", [{}], "Given: nothing", "messages[0].role"),
    ("messages", [{**USER, "name": False}], "Given: False", "messages[0].name"),
    ("messages", [{"role": "king", "content": "x"}], "'king'", "messages[0].role"),
    ("messages", [{"role": "tool", "content": "x"}], "a string", "messages[0].tool_call_id"),
    (
        "messages",
        [USER, {"role": "tool", "tool_call_id": "a", "content": "x"}],
        "call 'a', which no message",
        "messages[1].tool_call_id",
    ),
    ("messages", [{"role": "user"}], "Given: nothing", "messages[0].content"),
    ("messages", [{"role": "user", "content": 5}], "Given: int", "messages[0].content"),
    ("messages", [{"role": "user", "content": []}], "Given: nothing", "messages[0].content"),
    (
        "messages",
        [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
        "'image_url'",
        "messages[0].content[0].type",
    ),
    (
        "messages",
        [{"role": "user", "content": [{"type": "text"}]}],
        "text must be a string",
        "messages[0].content[0].text",
    ),
    ("messages", [USER | {"tool_calls": [{}]}], "tool_calls", "messages[0].tool_calls"),
    ("messages", [USER | {"foo": 0}], "foo", "messages[0].foo"),
    ("messages", [USER | {"name": "x" * 257}], "256 characters", "messages[0].name"),
    ("messages", [USER | {"name": 5}], "Given: 5", "messages[0].name"),
    # OpenAI's, not ours yet.
    ("tools", [{"type": "function"}], "function is required", "tools[0].function"),
    ("tools", [{"type": "web_search"}], "'function' or 'custom'", "tools[0].type"),
    ("tools", [TOOL, TOOL], "Given twice: 'f'", "tools[1].function.name"),
    ("tools", [tool(name="a b")], "pattern", "tools[0].function.name"),
    ("tools", [TOOL] * 129, "at most 128", "tools"),
    (
        "tools",
        [tool(parameters={"type": "string"})],
        "of type object",
        "tools[0].function.parameters",
    ),
    ("tool_choice", "required", "needs tools", "tool_choice"),
    ("tool_choice", {"type": "function", "function": {"name": "f"}}, "needs tools", None),
    ("functions", [{"name": "f"}], "functions is not supported. Send tools,", None),
    ("function_call", {"name": "f"}, "function_call is not supported. Send tool_choice,", None),
    (
        "messages",
        [USER, {"role": "assistant", "function_call": {"name": "f"}}],
        "function_call is not supported. Send tool_calls,",
        "messages[1].function_call",
    ),
    ("response_format", {"type": "json"}, "response_format.type must be", "response_format.type"),
    ("modalities", ["text", "audio"], "modalities is not supported", None),
    ("audio", {"voice": "x"}, "audio is not supported", None),
    ("store", True, "needs a server with a store", None),
    ("prediction", {"type": "content"}, "prediction is not supported", None),
    ("reasoning_effort", "high", "reasoning_effort must be 'none'", None),
    ("web_search_options", {"a": 1}, "web_search_options is not supported", None),
    ("best_of", 2, "best_of", None),
]


def check_error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return body["error"]


@pytest.fixture
async def client(connect: Connect) -> httpx.AsyncClient:
    settings = ServeSettings(max_body_mib=0.125)
    return await connect(FakeEngine(says("ok")), settings)


@pytest.mark.parametrize(("option", "value", "message", "param"), OPTIONS)
async def test_bad_option(
    client: httpx.AsyncClient, option: str, value: Any, message: str, param: str | None
) -> None:
    response = await client.post(CHAT, json={**chat_body(), option: value})
    error = check_error(response, 400)
    assert message in error["message"]
    assert error["param"] == (param or option)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_missing_field(client: httpx.AsyncClient, missing: str) -> None:
    body = {name: value for name, value in chat_body().items() if name != missing}
    error = check_error(await client.post(CHAT, json=body), 400)
    assert error["message"] == f"{missing} is required."


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, "string, a list of token ids"),
        ([], "string, a list of token ids"),
        (["a"] * 129, "Given: 129"),
        (["a", 5], "string, a list of token ids"),
        ([[1], []], "string, a list of token ids"),
        ([[1], [259]], "259"),
        ([1, "a"], "string, a list of token ids"),
        ([True], "string, a list of token ids"),
        ([259], "259"),
        ([-1], "-1"),
        ([HUGE], "0"),
        ("x" * 5000, "4096"),
        (None, "string, a list of token ids"),
    ],
)
async def test_bad_prompt(client: httpx.AsyncClient, prompt: Any, message: str) -> None:
    response = await client.post("/v1/completions", json={"model": "demo", "prompt": prompt})
    assert message in check_error(response, 400)["message"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("truncation", "auto"),
        ("echo", 1),
        ("suffix", "x"),
        ("best_of", 2),
        ("logprobs", 21),
        ("logprobs", True),
    ],
)
async def test_bad_option_of_text_completions(
    client: httpx.AsyncClient, option: str, value: Any
) -> None:
    body = {"model": "demo", "prompt": "a", option: value}
    response = await client.post("/v1/completions", json=body)
    assert check_error(response, 400)["param"] == option


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"\xff\xfe{}", "not UTF-8"),
        ('{"model":"é"}'.encode("latin-1"), "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b'{"temperature":NaN}', "NaN"),
        (b'{"temperature":-Infinity}', "-Infinity"),
        (b'{"temperature":1e999}', "out of range"),
        (b'{"seed":' + b"9" * 5000 + b"}", "seed holds a number out of range"),
        (b'{"model":"a","model":"b"}', "'model' twice"),
        (b'{"messages":[{"role":"user","role":"x"}]}', "'role' twice"),
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
        (b'{"model":"\\ud800"}', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
    ],
)
async def test_bad_json(client: httpx.AsyncClient, body: bytes, message: str) -> None:
    error = check_error(await client.post(CHAT, content=body), 400)
    assert message in error["message"]


async def test_whole_surrogate_pairs_and_nul_are_text(client: httpx.AsyncClient) -> None:
    body = json.dumps(chat_body("\U0001f600\x00")).encode()
    assert b"\\ud83d" in body
    assert (await client.post(CHAT, content=body)).status_code == 200


async def test_body_over_the_limit(client: httpx.AsyncClient) -> None:
    limit = 128 * 1024
    error = check_error(await client.post(CHAT, content=b"x" * (limit + 1)), 413)
    assert str(limit) in error["message"]

    async def endless() -> Any:  # a chunked body declares no length
        for _ in range(100):
            yield b"x" * 4096

    check_error(await client.post(CHAT, content=endless()), 413)


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "image/png"])
async def test_media_type(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post(CHAT, content=b"{}", headers={"content-type": kind})
    assert kind.partition(";")[0] in check_error(response, 415)["message"]


async def test_a_compressed_body_is_refused_as_such(client: httpx.AsyncClient) -> None:
    body = gzip.compress(json.dumps(chat_body()).encode())
    response = await client.post(CHAT, content=body, headers={"content-encoding": "gzip"})
    error = check_error(response, 415)
    assert error["param"] == "Content-Encoding" and "Given: gzip" in error["message"]
    identity = {"content-encoding": "identity"}
    assert (await client.post(CHAT, json=chat_body(), headers=identity)).status_code == 200


async def test_unknown_model_route_and_method(client: httpx.AsyncClient) -> None:
    error = check_error(await client.post(CHAT, json=chat_body() | {"model": "gpt-5"}), 404)
    assert error["code"] == "model_not_found"
    assert "Available: demo" in error["message"]
    check_error(await client.get("/v1/models/gpt-5"), 404)
    check_error(await client.post("/v1/nothing"), 404)
    error = check_error(await client.post("/chat/completions"), 404)
    assert "Did you mean /v1/chat/completions?" in error["message"]
    response = await client.get(CHAT)
    assert "Allowed: POST." in check_error(response, 405)["message"]
    assert response.headers["allow"] == "POST"


async def test_prompt_and_max_tokens_over_the_context(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=chat_body("x" * 4000, max_tokens=200))
    error = check_error(response, 400)
    assert error["code"] == "context_length_exceeded"
    for number in ("4096", "200"):
        assert number in error["message"]


@needs_schemas
async def test_errors_are_as_openai_publishes_them(client: httpx.AsyncClient) -> None:
    for body in (chat_body(n=0), chat_body() | {"model": "x"}):
        validate("ErrorResponse", (await client.post(CHAT, json=body)).json())


async def test_contradicting_limits(client: httpx.AsyncClient) -> None:
    response = await client.post(CHAT, json=chat_body(max_tokens=1, max_completion_tokens=2))
    assert "contradict" in check_error(response, 400)["message"]
