"""min_tokens and allowed_token_ids on the wire, as vLLM has them."""

from typing import Any

import pytest

from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says


def chat(**options: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], **options}


async def test_every_endpoint_hands_them_to_the_engine(connect_stored: Connect) -> None:
    engine = FakeEngine(says("ok"))
    client = await connect_stored(engine)
    options = {"min_tokens": 3, "allowed_token_ids": [7, 5, 7]}
    for path, body in (
        ("/v1/chat/completions", chat(**options)),
        ("/v1/completions", {"model": "demo", "prompt": "a", **options}),
        ("/v1/responses", {"model": "demo", "input": "a", **options}),
    ):
        assert (await client.post(path, json=body)).status_code == 200
        sampling = engine.submitted[-1].sampling
        assert (sampling.min_tokens, sampling.allowed_token_ids) == (3, (5, 7))


async def test_the_first_tokens_complete_no_stop_string(connect: Connect) -> None:
    client = await connect(FakeEngine(says("abcabcabc")))
    texts = []
    for min_tokens in (0, 2, 3, 4):
        answer = await client.post(
            "/v1/chat/completions", json=chat(stop="abc", min_tokens=min_tokens)
        )
        texts.append(answer.json()["choices"][0]["message"]["content"])
    assert texts == ["", "abcabcabc"[:3], "abc", "abcabc"]


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"min_tokens": -1}, "min_tokens", "greater than or equal to 0"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "<= max_tokens (4)"),
        ({"allowed_token_ids": [259]}, "allowed_token_ids", "< 259"),
        ({"allowed_token_ids": [0] * 4097}, "allowed_token_ids", "4096"),
        ({"min_tokens": 1, "structured_outputs": {"choice": ["a"]}}, "min_tokens", "exclude"),
    ],
)
async def test_what_they_cannot_be_is_refused_by_name(
    connect: Connect, options: dict[str, Any], param: str, words: str
) -> None:
    client = await connect(FakeEngine(says("ok")))
    answer = await client.post("/v1/chat/completions", json=chat(**options))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param) and words in error["message"]
