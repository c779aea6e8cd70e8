"""What a body may hold, small or large, and how much of it."""

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamastream.api.http import body as body_module
from llamastream.api.http.json_object import (
    LARGE_BYTES,
    MAX_INTEGER,
    MAX_NAMES,
    MAX_VALUES,
    MIN_INTEGER,
    parse_object,
)
from llamastream.config import ServeSettings
from llamastream.errors import ChatError, InvalidRequest, PayloadTooLarge
from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
PADDING = b" " * LARGE_BYTES  # with which a text is large


def outcome(body: bytes) -> Any:
    try:
        return parse_object(body)
    except ChatError as error:
        return type(error)


@given(st.dictionaries(TEXTS, VALUES, max_size=3), st.booleans())
def test_large_texts_are_read_as_small_ones(value: dict[str, Any], is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert parse_object(body) == parse_object(body + PADDING) == value


@given(st.text('{}[]:,"\\ue0-19.truefalsnNI ', max_size=40))
def test_large_texts_are_refused_as_small_ones(text: str) -> None:
    assert repr(outcome(text.encode() + PADDING)) == repr(outcome(text.encode()))


BAD = [
    b'{"a":1,"a":2}',
    b'{"a":NaN}',
    b'{"a":1e999}',
    b'{"a":[1' + b"0" * 400 + b"]}",
    b'{"a":"\\ud800"}',
    b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"a":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: body[:20])
def test_what_is_wrong_is_refused_at_any_size(body: bytes) -> None:
    assert outcome(body) is outcome(body + PADDING) is InvalidRequest


OUT_OF_RANGE = [
    *(str(MAX_INTEGER + 1), str(MIN_INTEGER - 1), str(10**30), "1" + "0" * 308),
    *("1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 5000, "1e309", "-1e999999"),
]


@pytest.mark.parametrize("digits", OUT_OF_RANGE, ids=lambda digits: f"{digits[:8]} {len(digits)}")
@pytest.mark.parametrize("padding", [b"", PADDING], ids=["small", "large"])
def test_a_number_out_of_range_names_its_field(digits: str, padding: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"top_k holds a number out of range.*2\^64") as caught:
        parse_object(f'{{"b": {{"top_k" :{digits}}}}}'.encode() + padding)
    assert caught.value.param == "top_k"
    assert len(caught.value.message) < 250


TINY = [b"[]", b"{}", b'""', b"1", b"1.5", b"null", b"[[[]]]", b'{"a":1}', b'"\xf0\x9f\x98\x80"']


@pytest.mark.parametrize("value", TINY)
def test_values_are_bounded(value: bytes) -> None:
    """A text of a megabyte would make a hundred of objects, and hold Python's lock for seconds."""
    parse_object(b'{"a":[' + b",".join([value] * 1000) + b"]}" + PADDING)
    body = b'{"a":[' + b",".join([value] * MAX_VALUES) + b"]}"
    with pytest.raises(PayloadTooLarge, match=str(MAX_VALUES)):
        parse_object(body)


@pytest.mark.parametrize("padding", [b"", PADDING])
def test_names_of_an_object_are_bounded(padding: bytes) -> None:
    few = json.dumps({str(k): 1 for k in range(MAX_NAMES)}).encode()
    assert len(parse_object(few + padding)) == MAX_NAMES
    many = json.dumps({str(k): 1 for k in range(MAX_NAMES + 1)}).encode()
    with pytest.raises(InvalidRequest, match=str(MAX_NAMES)):
        parse_object(many + padding)


async def test_a_large_body_is_parsed_beside_the_loop(
    connect_stored: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns on meanwhile."""
    threads: list[threading.Thread] = []

    def parse(body: bytes) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return parse_object(body)

    monkeypatch.setattr(body_module, "parse_object", parse)
    server = await connect_stored(FakeEngine(says("ok")))
    body = b'{"a":[' + b",".join([b"{}"] * (MAX_VALUES // 4)) + b"]}"
    for path in ("/v1/responses", "/stream"):
        assert (await server.post(path, content=body)).status_code in (400, 422), path
    assert len(threads) == 2
    assert threading.main_thread() not in threads


async def test_the_limit_of_bodies_is_that_of_every_route(connect_stored: Connect) -> None:
    limit = 2**17
    server = await connect_stored(FakeEngine(says("ok")), ServeSettings(max_body_mib=limit / 2**20))
    paths = [
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/conversations"),
        *("/v1/conversations/conv_0", "/v1/conversations/conv_0/items", "/tokenize", "/detokenize"),
        *("/apply-template", "/stream", "/v1/chat/completions/chatcmpl-0"),
    ]
    for path in paths:
        answer = await server.post(path, content=b" " * (limit + 1))
        assert answer.status_code == 413, path
        assert str(limit) in answer.json()["error"]["message"], path
