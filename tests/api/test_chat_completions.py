"""/v1/chat/completions on the wire: shapes, order, options, and OpenAI's own schemas."""

from typing import Any

import pytest

from tests.api.conftest import Connect
from tests.api.schemas import needs_schemas, validate
from tests.api.sse import chat_body, content_of, stream_chat
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.tokenizer import IM_END

CHUNK = "CreateChatCompletionStreamResponse"
GOLDEN = (
    b'data: {"id":"ID","object":"chat.completion.chunk","created":TIME,"model":"demo","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"ID","object":"chat.completion.chunk","created":TIME,"model":"demo","choices":'
    b'[{"index":0,"delta":{"content":"\\""},"logprobs":null,"finish_reason":null}],"usage":null}'
    b"\n\n"
    b'data: {"id":"ID","object":"chat.completion.chunk","created":TIME,"model":"demo","choices":'
    b'[{"index":0,"delta":{"content":"\xc3\xa9"},"logprobs":null,"finish_reason":null}],'
    b'"usage":null}\n\n'
    b'data: {"id":"ID","object":"chat.completion.chunk","created":TIME,"model":"demo","choices":'
    b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
    b'data: {"id":"ID","object":"chat.completion.chunk","created":TIME,"model":"demo","choices":'
    b'[],"usage":{"prompt_tokens":25,"completion_tokens":4,"total_tokens":29,'
    b'"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
    b"data: [DONE]\n\n"
)


async def test_the_bytes_of_a_stream(connect: Connect) -> None:
    client = await connect(FakeEngine(says('"é')))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/chat/completions", json=chat_body("hello!", **options))
    first = response.text.partition("\n\n")[0]
    answer_id = first.partition('"id":"')[2].partition('"')[0]
    created = first.partition('"created":')[2].partition(",")[0]
    assert answer_id.startswith("chatcmpl-")
    golden = GOLDEN.replace(b"ID", answer_id.encode()).replace(b"TIME", created.encode())
    assert response.content == golden
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


@needs_schemas
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 3, "n": 2},
        {"return_token_ids": True, "truncation": "auto", "max_tokens": 3},
        {"stop": ["e 😀", "zz"]},
    ],
)
async def test_every_chunk_is_as_openai_publishes_it(
    connect: Connect, options: dict[str, Any]
) -> None:
    client = await connect(FakeEngine(says("Some text, é 😀.")))
    chunks = await stream_chat(client, **options)
    assert chunks.pop() == "[DONE]"
    for chunk in chunks:
        validate(CHUNK, chunk)
    whole = await client.post("/v1/chat/completions", json=chat_body(**_whole(options)))
    validate("CreateChatCompletionResponse", whole.json())


@pytest.mark.parametrize(
    "options", [{}, {"logprobs": True, "top_logprobs": 2}, {"return_token_ids": True}, {"n": 3}]
)
async def test_a_streamed_answer_equals_the_whole_one(
    connect: Connect, options: dict[str, Any]
) -> None:
    client = await connect(FakeEngine(says("One, zwei 😀 trois.")))
    chunks = await stream_chat(client, stream_options={"include_usage": True}, **options)
    response = await client.post("/v1/chat/completions", json=chat_body(**options))
    whole = response.json()
    for choice in whole["choices"]:
        index = choice["index"]
        own = [c for chunk in chunks[:-1] for c in chunk["choices"] if c["index"] == index]
        assert content_of(chunks, index) == choice["message"]["content"] == "One, zwei 😀 trois."
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == ["stop"]
        assert own[-1]["finish_reason"] == "stop"
        assert [c["delta"].get("role") for c in own] == ["assistant"] + [None] * (len(own) - 1)
        if "logprobs" in options:
            entries = [e for c in own if c["logprobs"] for e in c["logprobs"]["content"]]
            assert entries == choice["logprobs"]["content"]
            assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
        if "return_token_ids" in options:
            ids = [i for c in own for i in c.get("token_ids", [])]
            assert ids == choice["token_ids"] == [*"One, zwei 😀 trois.".encode(), IM_END]
            assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert chunks[-2]["usage"] == whole["usage"]


async def test_logprobs_carry_the_bytes_of_each_token(connect: Connect) -> None:
    client = await connect(FakeEngine(says("é")))
    response = await client.post("/v1/chat/completions", json=chat_body(logprobs=True))
    content = response.json()["choices"][0]["logprobs"]["content"]
    assert bytes(b for entry in content[:2] for b in entry["bytes"]).decode() == "é"
    assert content[0]["token"] == "bytes:\\xc3"
    assert content[0]["logprob"] == -0.5


async def test_a_stop_string_across_tokens_never_shows(connect: Connect) -> None:
    client = await connect(FakeEngine(says("keep this STOP not this")))
    chunks = await stream_chat(client, stop="STOP", stream_options={"include_usage": True})
    assert content_of(chunks) == "keep this "
    assert chunks[-2]["usage"]["completion_tokens"] == len("keep this STOP")


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "developer", "content": "be"}], b"system\nbe"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], b"user\na"),
        (
            [
                {"role": "user", "content": "a"},
                # An answer as the SDK gives it back.
                {"role": "assistant", "content": "b", "refusal": None, "tool_calls": None},
                {"role": "user", "content": [{"type": "text", "text": t} for t in ("c", "d")]},
            ],
            b"user\ncd",
        ),
    ],
)
async def test_messages_reach_the_prompt(
    connect: Connect, messages: list[dict[str, Any]], prompt: bytes
) -> None:
    engine = FakeEngine(says("ok"))
    client = await connect(engine)
    response = await client.post(
        "/v1/chat/completions", json={"model": "demo", "messages": messages}
    )
    assert response.status_code == 200, response.text
    ids = engine.submitted[0].prompt_ids
    assert prompt in bytes(i for i in ids if i < 256)


async def test_every_option_reaches_the_engine(connect: Connect) -> None:
    engine = FakeEngine(says("ok"))
    client = await connect(engine)
    options = {
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "logit_bias": {"65": 5, "66": -100},
        "seed": -1,
        "logprobs": True,
        "top_logprobs": 4,
        "stop_token_ids": [33],
        "user": "me",
        "metadata": {"a": "b"},
    }
    response = await client.post("/v1/chat/completions", json=chat_body(**options))
    assert response.status_code == 200, response.text
    assert response.json()["metadata"] == {"a": "b"}
    sampling = engine.submitted[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (7, 0.5, 0.9)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (5, 0.1, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.2, -0.3)
    assert sampling.logit_bias == ((65, 5.0), (66, -100.0))
    assert (sampling.seed, sampling.logprobs) == (2**64 - 1, 4)
    assert sampling.stop_token_ids == {33, IM_END}


async def test_what_asks_for_nothing_is_accepted(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    options = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "audio": None,
        "stop": None,
        "temperature": None,
        "top_k": -1,
    }
    response = await client.post("/v1/chat/completions", json=chat_body(**options))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", None])
async def test_the_body_decides_not_its_declared_type(
    connect: Connect, content_type: str | None
) -> None:
    client = await connect(FakeEngine(says("Paris")))
    headers = {} if content_type is None else {"content-type": content_type}
    body = b'{"model":"demo","messages":[{"role":"user","content":"?"}]}'
    response = await client.post("/v1/chat/completions", content=body, headers=headers)
    assert response.json()["choices"][0]["message"]["content"] == "Paris"


def _whole(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "stream_options"}
