"""/tokenize, /detokenize and /apply-template show what the model is given."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import Connect
from tests.api.test_bad_input import check_error
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.tokenizer import IM_END, IM_START

MESSAGES = [{"role": "user", "content": "say <|im_end|>"}]
IDS = [IM_START, *b"user\nsay <|im_end|>", IM_END, 10, IM_START, *b"assistant\n"]


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine(says("ok"))


@pytest.fixture
async def client(connect: Connect, engine: FakeEngine) -> httpx.AsyncClient:
    return await connect(engine)


async def test_apply_template_gives_text_and_the_ids_that_chat_would_use(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = (await client.post("/apply-template", json={"messages": MESSAGES})).json()
    assert answer["prompt"] == (
        "<|im_start|>user\nsay <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert answer["tokens"] == IDS  # what the user typed stays text
    assert answer["count"] == len(IDS)
    body = {"model": "demo", "messages": MESSAGES}
    await client.post("/v1/chat/completions", json=body)
    assert list(engine.submitted[0].prompt_ids) == IDS


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"prompt": "é<|im_end|>"}, [*"é".encode(), IM_END]),
        ({"prompt": "é<|im_end|>", "add_special_tokens": False}, [*"é".encode(), IM_END]),
        ({"prompt": "<|im_end|>", "parse_special": False}, [*b"<|im_end|>"]),
        ({"prompt": ""}, []),
        ({"messages": MESSAGES, "model": "demo"}, IDS),
    ],
)
async def test_tokenize(client: httpx.AsyncClient, options: dict[str, Any], ids: list[int]) -> None:
    answer = (await client.post("/tokenize", json=options)).json()
    assert answer == {"tokens": ids, "count": len(ids), "max_model_len": 4096}


async def test_tokens_have_texts(client: httpx.AsyncClient) -> None:
    body = {"prompt": "a<|im_end|>", "return_token_strs": True}
    answer = (await client.post("/tokenize", json=body)).json()
    assert answer["token_strs"] == ["a", "<|im_end|>"]


async def test_detokenize_is_the_way_back(client: httpx.AsyncClient) -> None:
    body = {"tokens": [*"é😀".encode(), IM_END]}
    assert (await client.post("/detokenize", json=body)).json() == {"prompt": "é😀<|im_end|>"}
    body |= {"skip_special_tokens": True}
    assert (await client.post("/detokenize", json=body)).json() == {"prompt": "é😀"}


async def test_a_long_text_is_encoded_too(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"prompt": "x" * 100_000})).json()
    assert answer["count"] == 100_000


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/tokenize", {}, 400, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, 400, "either prompt or messages"),
        ("/tokenize", {"prompt": 5}, 400, "valid string"),
        ("/tokenize", {"prompt": "a", "foo": 1}, 400, "Unknown option"),
        ("/tokenize", {"prompt": "a", "model": "gpt-5"}, 404, "Available: demo"),
        ("/detokenize", {"tokens": [259]}, 400, "259"),
        ("/detokenize", {"tokens": ["a"]}, 400, "integer"),
        ("/detokenize", {}, 400, "tokens is required"),
        ("/apply-template", {"messages": []}, 400, "at least 1"),
        ("/apply-template", {"messages": [{"role": "king"}]}, 400, "'king'"),
    ],
)
async def test_bad_input(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    error = check_error(await client.post(path, json=body), status)
    assert message in error["message"]


async def test_the_options_of_a_chat_are_those_of_its_prompt(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "I say"}]
    begun = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    shown = (await client.post("/apply-template", json=begun)).json()
    assert shown["prompt"].endswith("assistant\nI say")
    assert (await client.post("/tokenize", json=begun)).json()["tokens"] == shown["tokens"]
    await client.post("/v1/chat/completions", json={"model": "demo", **begun})
    assert list(engine.submitted[0].prompt_ids) == shown["tokens"]
    bare = {"messages": MESSAGES, "add_generation_prompt": False}
    text = (await client.post("/apply-template", json=bare)).json()["prompt"]
    assert text == "<|im_start|>user\nsay <|im_end|><|im_end|>\n"
    both = begun | {"add_generation_prompt": True}
    error = check_error(await client.post("/apply-template", json=both), 400)
    assert error["param"] == "continue_final_message"


async def test_tokenizer_info_is_what_a_remote_tokenizer_needs(client: httpx.AsyncClient) -> None:
    facts = (await client.get("/tokenizer_info")).json()
    assert facts["eos_token"] == "<|im_end|>"
    assert facts["bos_token"] == "<s>"
    assert "<|im_start|>" in facts["chat_template"]
    assert facts["vocab_size"] == 259
    # As lm-eval looks up an id.
    body = {"prompt": facts["eos_token"], "add_special_tokens": False}
    assert (await client.post("/tokenize", json=body)).json()["tokens"] == [IM_END]
