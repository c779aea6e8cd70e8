"""A client's text comes back in errors, but never much of it."""

from typing import Any

import pytest

from llamastream import errors
from llamastream.errors import MAX_MESSAGE_CHARS, MAX_PARAM_CHARS, MAX_QUOTED_CHARS, quoted
from tests.api.conftest import Connect
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

LONG = "x" * 20_000
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "value", [LONG, [LONG] * 1000, {LONG: LONG}, 10**300, [[[[[LONG]]]]], list(range(10**6))]
)
def test_a_quoted_value_is_short(value: object) -> None:
    assert len(quoted(value)) <= MAX_QUOTED_CHARS + 6  # quotes and dots
    assert len(quoted(str(value), mark=False)) <= MAX_QUOTED_CHARS + 3


def test_short_values_are_quoted_whole() -> None:
    given = ["warm", 1.5, None, True, [1, 2], {"a": 1}]
    assert list(map(quoted, given)) == list(map(repr, given))
    assert quoted("a b", mark=False) == "a b"


def test_every_error_is_bounded_whatever_is_put_into_it() -> None:
    error = errors.InvalidRequest(LONG, param=LONG)
    assert len(error.message) <= MAX_MESSAGE_CHARS + 3
    assert len(str(error)) <= MAX_MESSAGE_CHARS + 3
    assert len(error.param or "") <= MAX_PARAM_CHARS + 3


ASKED: list[tuple[str, str, Any]] = [
    ("GET", f"/{LONG}", None),
    ("POST", f"/v1/responses/{LONG}", None),
    ("GET", f"/v1/responses/{LONG}", None),
    ("GET", f"/v1/responses/resp_{LONG}", None),
    ("GET", f"/v1/responses/resp_{LONG}/input_items", None),
    ("DELETE", f"/v1/responses/resp_{LONG}", None),
    ("GET", f"/v1/conversations/{LONG}", None),
    ("GET", f"/v1/conversations/conv_{LONG}/items/{LONG}", None),
    ("GET", f"{CHAT}/chatcmpl-{LONG}", None),
    ("DELETE", f"/stream/stream_{LONG}", None),
    ("GET", f"/v1/models/{LONG}", None),
    ("GET", f"/v1/conversations?limit={LONG}", None),
    ("GET", f"/v1/conversations?order={LONG}", None),
    ("GET", f"/v1/conversations?after={LONG}", None),
    ("GET", f"/v1/conversations?{LONG}=1", None),
    ("GET", f"/stream?max_tokens={LONG}&prompt=a", None),
    ("POST", CHAT, chat_body(model=LONG)),
    ("POST", CHAT, chat_body(temperature=LONG)),
    ("POST", CHAT, chat_body(**{LONG: 1})),
    ("POST", CHAT, chat_body(logit_bias={LONG: 1})),
    ("POST", CHAT, chat_body(metadata={LONG: LONG})),
    ("POST", CHAT, chat_body(stream_options={LONG: 1})),
    ("POST", CHAT, chat_body() | {"messages": [{"role": LONG, "content": "a"}]}),
    ("POST", CHAT, chat_body() | {"messages": [{"role": "user", "content": "a", LONG: 1}]}),
    ("POST", CHAT, chat_body() | {"messages": [{"role": "user", "content": [{"type": LONG}]}]}),
    ("POST", "/v1/responses", {"model": "demo", "input": [{"type": LONG}]}),
    ("POST", "/v1/responses", {"model": "demo", "input": "a", "previous_response_id": LONG}),
    ("POST", "/v1/responses", {"model": "demo", "input": "a", "conversation": LONG}),
    ("POST", "/v1/responses", {"model": "demo", "input": "a", "include": [LONG]}),
    ("POST", "/stream", {"prompt": "a", "max_tokens": LONG}),
    ("POST", "/stream", {"prompt": "a", "max_tokens": 1, "stream_id": LONG}),
]


async def test_no_route_repeats_much_of_what_it_was_sent(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says("ok")))
    for method, path, body in ASKED:
        answer = await server.request(method, path, json=body)
        where = f"{method} {path[:40]} {str(body)[:60]}"
        assert 400 <= answer.status_code < 500, where
        assert len(answer.content) < 1000, where


async def test_no_header_is_repeated_at_length(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    for name in ("content-type", "content-encoding", "idempotency-key", "x-request-id", "origin"):
        answer = await client.post(CHAT, json=chat_body(), headers={name: LONG})
        said = answer.content + b"".join(b"".join(pair) for pair in answer.headers.raw)
        assert len(said) < 1500, name
