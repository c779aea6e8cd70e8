"""/v1/completions on the wire."""

from typing import Any

import pytest

from tests.api.conftest import Connect
from tests.api.schemas import needs_schemas, validate
from tests.api.sse import events
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.tokenizer import BOS, IM_END


def body(prompt: Any = "Once", **options: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, **options}


@needs_schemas
@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"n": 2, "max_tokens": 3}])
async def test_a_whole_answer_is_as_openai_publishes_it(
    connect: Connect, options: dict[str, Any]
) -> None:
    client = await connect(FakeEngine(says("text é")))
    response = await client.post("/v1/completions", json=body(**options))
    validate("CreateCompletionResponse", response.json())


@pytest.mark.parametrize("options", [{}, {"logprobs": 2}, {"n": 2}, {"return_token_ids": True}])
async def test_a_streamed_answer_equals_the_whole_one(
    connect: Connect, options: dict[str, Any]
) -> None:
    client = await connect(FakeEngine(says("é, 😀!")))
    whole = (await client.post("/v1/completions", json=body(**options))).json()
    options |= {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/completions", json=body(**options))
    *chunks, usage, done = events(response.text)
    assert done == "[DONE]"
    assert usage["usage"] == whole["usage"]
    for choice in whole["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"] == "é, 😀!"
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + ["stop"]
        if "logprobs" in options:
            parts = [c["logprobs"] for c in own if c["logprobs"]]
            joined = {key: [x for part in parts for x in part[key]] for key in parts[0]}
            assert joined == choice["logprobs"]
        if "return_token_ids" in options:
            assert [i for c in own for i in c["token_ids"]] == choice["token_ids"]


async def test_text_offsets_point_at_the_characters(connect: Connect) -> None:
    client = await connect(FakeEngine(says("aé😀b")))
    response = await client.post("/v1/completions", json=body(logprobs=1))
    logprobs = response.json()["choices"][0]["logprobs"]
    assert logprobs["text_offset"][:8] == [0, 1, 1, 2, 2, 2, 2, 3]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == 9


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [97, 98]),
        ([97, 98], [97, 98]),
        (["ab"], [97, 98]),
        ([[97, 98]], [97, 98]),
        ("<|im_start|>a", [256, 97]),
    ],
)
async def test_a_prompt_is_a_text_or_ids(connect: Connect, prompt: Any, ids: list[int]) -> None:
    engine = FakeEngine(says("ok"))
    client = await connect(engine)
    response = await client.post("/v1/completions", json=body(prompt, return_token_ids=True))
    assert list(engine.submitted[0].prompt_ids) == ids
    assert response.json()["prompt_token_ids"] == ids


async def test_sixteen_tokens_are_the_default(connect: Connect) -> None:
    client = await connect(FakeEngine(says("x" * 100)))
    choice = (await client.post("/v1/completions", json=body())).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x" * 16, "length")


async def test_the_end_of_a_turn_can_be_ignored(connect: Connect) -> None:
    client = await connect(FakeEngine(lambda _: [65, IM_END, 66]))
    response = await client.post("/v1/completions", json=body(ignore_eos=True, max_tokens=4))
    assert response.json()["choices"][0]["text"] == "ABB"


@pytest.mark.parametrize("prompts", [["one", "two!"], [[97, 98], [99]], ["one", [98]]])
@pytest.mark.parametrize("n", [1, 2])
async def test_many_prompts_are_the_answers_of_each_alone(
    connect: Connect, prompts: list[Any], n: int
) -> None:
    engine = FakeEngine(lambda request: [*request.prompt_ids, IM_END])
    client = await connect(engine)
    options = {"n": n, "seed": 5, "logprobs": 1, "return_token_ids": True}
    whole = (await client.post("/v1/completions", json=body(prompts, **options))).json()
    seeds = [request.sampling.seed for request in engine.submitted]
    assert seeds == seeds[:n] * 2 and len(set(seeds)) == n
    assert [choice["index"] for choice in whole["choices"]] == list(range(2 * n))
    singles = [
        (await client.post("/v1/completions", json=body(p, **options))).json() for p in prompts
    ]
    for k, single in enumerate(singles):
        for i, choice in enumerate(single["choices"]):
            assert whole["choices"][k * n + i] == choice | {"index": k * n + i}
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert whole["usage"][name] == sum(single["usage"][name] for single in singles)
    assert whole["prompt_token_ids"] == [single["prompt_token_ids"] for single in singles]


async def test_many_prompts_stream_their_choices(connect: Connect) -> None:
    client = await connect(FakeEngine(lambda request: [*request.prompt_ids, IM_END]))
    options = {"n": 2, "stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/completions", json=body(["ab", "cd", "ef"], **options))
    *chunks, usage, done = events(response.text)
    assert done == "[DONE]"
    texts = [""] * 6
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] += choice["text"]
    assert texts == ["ab", "ab", "cd", "cd", "ef", "ef"]
    assert usage["usage"]["prompt_tokens"] == 6


async def test_one_prompt_that_does_not_fit_refuses_all(connect: Connect) -> None:
    engine = FakeEngine(says("x"))
    client = await connect(engine)
    response = await client.post("/v1/completions", json=body(["a", "b" * 4090], max_tokens=10))
    assert response.status_code == 400
    fits = await client.post("/v1/completions", json=body(["b" * 4000] * 3, max_tokens=10))
    assert fits.status_code == 200
    assert engine.num_alive == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("skip", [False, True])
async def test_text_offsets_are_of_the_text_also_behind_what_is_no_text(
    connect: Connect, stream: bool, skip: bool
) -> None:
    """Bytes that become no character, a U+FFFD that is one, and a hidden control token."""
    drawn = [0xF0, 0x9F, 97, 0xC3, 0x80 + 41, 0xE0, 0xC3, 98, 0xEF, 0xBF, 0xBD, BOS, 99, IM_END]
    client = await connect(FakeEngine(lambda request: drawn))
    asked = body(logprobs=0, max_tokens=20, stream=stream, skip_special_tokens=skip)
    response = await client.post("/v1/completions", json=asked)
    parts = events(response.text)[:-1] if stream else [response.json()]
    choices = [part["choices"][0] for part in parts]
    text = "".join(choice["text"] for choice in choices)
    offsets = [n for c in choices if c["logprobs"] for n in c["logprobs"]["text_offset"]]
    assert text == "\ufffda\u00e9\ufffd\ufffdb\ufffd" + ("" if skip else "<s>") + "c"
    assert offsets[:12] == [0, 0, 1, 2, 2, 3, 4, 5, 6, 6, 6, 7]
    assert [text[at] for at in offsets[12:13]] == ["c"]
    assert offsets[13] == len(text)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 4])
async def test_an_echo_is_the_prompt_with_its_log_probabilities(
    connect: Connect, stream: bool, max_tokens: int
) -> None:
    client = await connect(FakeEngine(says("é, x")))
    asked = body("aé", echo=True, logprobs=1, max_tokens=max_tokens, n=2, stream=stream)
    response = await client.post("/v1/completions", json=asked)
    whole = [response.json()] if not stream else events(response.text)[:-1]
    for index in range(2):
        own = [c for part in whole for c in part["choices"] if c["index"] == index]
        assert "".join(c["text"] for c in own) == "aéé, "[: 2 + max_tokens - (max_tokens == 4)]
        parts = [c["logprobs"] for c in own]
        found = {key: [x for part in parts for x in part[key]] for key in parts[0]}
        assert found["tokens"][:3] == ["a", "bytes:\\xc3", "bytes:\\xa9"]
        assert found["token_logprobs"] == [None, *[-0.5] * (2 + max_tokens)]
        assert found["top_logprobs"][:2] == [None, {"bytes:\\xc3": -0.5}]
        assert found["text_offset"] == [0, 1, 1, 2, 2, 3, 4][: 3 + max_tokens]
        assert own[-1]["finish_reason"] == "length"


async def test_an_echo_shows_the_prompt_as_it_was_given(connect: Connect) -> None:
    client = await connect(FakeEngine(says("!")))
    prompts = ["a<|im_start|>b", "<s>"]
    response = await client.post("/v1/completions", json=body(prompts, echo=True, max_tokens=1))
    assert [c["text"] for c in response.json()["choices"]] == [f"{text}!" for text in prompts]
    assert response.json()["choices"][0]["logprobs"] is None


async def test_a_prompt_alone_is_read(connect: Connect) -> None:
    client = await connect(FakeEngine(says("x")))
    response = await client.post("/v1/completions", json=body("ab", max_tokens=0))
    assert response.json()["choices"][0]["text"] == ""
    assert response.json()["usage"]["completion_tokens"] == 0


async def test_prompt_log_probabilities_are_vllms(connect: Connect) -> None:
    engine = FakeEngine(says("x"))
    client = await connect(engine)
    asked = body(["ab", "c"], prompt_logprobs=2, echo=True, logprobs=0, max_tokens=1)
    choices = (await client.post("/v1/completions", json=asked)).json()["choices"]
    b = {"logprob": -0.5, "rank": 1, "decoded_token": "b"}
    c = {"logprob": -1.5, "rank": 2, "decoded_token": "c"}
    assert [choice["prompt_logprobs"] for choice in choices] == [[None, {"98": b, "99": c}], [None]]
    assert choices[0]["logprobs"]["top_logprobs"] == [None, {"b": -0.5}, {"x": -0.5}]
    messages = [{"role": "user", "content": "a"}]
    chat = {"model": "demo", "messages": messages, "prompt_logprobs": 0}
    found = (await client.post("/v1/chat/completions", json=chat)).json()["prompt_logprobs"]
    ids = engine.submitted[-1].prompt_ids
    assert [list(entry or {}) for entry in found] == [[], *([str(i)] for i in ids[1:])]
    assert found[1][str(ids[1])] == {"logprob": -0.5, "rank": None, "decoded_token": chr(ids[1])}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stream": True}, "not streamed"), ({"prompt_logprobs": 21}, "less than or equal to 20")],
)
async def test_prompt_log_probabilities_have_limits(
    connect: Connect, options: dict[str, Any], words: str
) -> None:
    client = await connect(FakeEngine(says("x")))
    response = await client.post("/v1/completions", json=body(**{"prompt_logprobs": 1} | options))
    assert response.status_code == 400 and words in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "prompt_logprobs"


async def test_as_many_tokens_as_there_is_room_for(connect: Connect) -> None:
    engine = FakeEngine(says("x"))
    client = await connect(engine)
    await client.post("/v1/completions", json=body(max_tokens=-1))
    assert engine.submitted[0].sampling.max_tokens is None
