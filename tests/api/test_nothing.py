"""null, [] and {} ask for nothing: in every field of every body, known and unknown."""

from collections.abc import Iterator
from inspect import isabstract
from typing import Any, Literal, get_args, get_origin

import pytest

from llamastream.api import app
from llamastream.api.wire.messages import (
    ITEM_FIELDS,
    MESSAGE_FIELDS,
    PART_FIELDS,
    parse_input,
    parse_messages,
)
from llamastream.api.wire.options import WireModel, validate
from tests.api.conftest import Connect
from tests.api.sse import chat_body
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

NOTHING: tuple[Any, ...] = (None, [], {}, {"a": None}, {"a": {"b": []}})
REQUIRED: dict[str, Any] = {
    "id": "x",
    "input": "hi",
    "items": ["x"],
    "input_schema": {"type": "object"},
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "hi"}],
    "metadata": {"a": "b"},
    "model": "demo",
    "prompt": "hi",
    "response_id": "resp_1",
    "definition": "start: /a/",
    "name": "f",
    "settings": {},
    "tokens": [1],
    "tools": [{"type": "function", "name": "f"}],
    "type": "text",
}


def bodies(base: type[WireModel] = WireModel) -> Iterator[type[WireModel]]:
    """All models of what clients send, as long as the application is imported."""
    assert app
    for model in base.__subclasses__():
        if not isabstract(model):
            yield model
        yield from bodies(model)


def required(model: type[WireModel]) -> dict[str, Any]:
    """The least that it takes."""
    kinds = {name: field.annotation for name, field in model.model_fields.items()}
    return {
        name: get_args(kinds[name])[0] if get_origin(kinds[name]) is Literal else REQUIRED[name]
        for name, field in model.model_fields.items()
        if field.is_required()
    }


def names(model: type[WireModel]) -> Iterator[str]:
    yield from (name for name, field in model.model_fields.items() if not field.is_required())
    yield from model.UNSUPPORTED
    yield "surprise"


CASES = [(model, name) for model in bodies() for name in names(model)]


def test_bodies_are_found() -> None:
    found = {model.__name__ for model in bodies()}
    assert {"ChatCompletionBody", "CompletionBody", "ResponseBody", "TokenizeBody"} <= found


@pytest.mark.parametrize(
    ("model", "name"), CASES, ids=[f"{model.__name__}.{name}" for model, name in CASES]
)
def test_an_option(model: type[WireModel], name: str) -> None:
    minimal = required(model)
    expected = validate(model, minimal)
    for value in NOTHING:
        assert validate(model, {**minimal, name: value}) == expected, value


@pytest.mark.parametrize("name", sorted(MESSAGE_FIELDS - {"role", "content"}) + ["tool_calls", "x"])
def test_a_message(name: str) -> None:
    message = {"role": "user", "content": "hi"}
    for value in NOTHING:
        assert parse_messages([{**message, name: value}]) == parse_messages([message])


@pytest.mark.parametrize("name", sorted(ITEM_FIELDS - {"role", "content"}) + ["tool_calls", "x"])
def test_an_item(name: str) -> None:
    item = {"role": "user", "content": "hi"}
    for value in NOTHING:
        (given,), (expected,) = parse_input([{**item, name: value}]), parse_input([item])
        assert given.body == expected.body


@pytest.mark.parametrize("name", sorted(PART_FIELDS - {"type", "text"}) + ["image_url", "x"])
def test_a_part(name: str) -> None:
    part = {"type": "text", "text": "hi"}
    for value in NOTHING:
        messages = [{"role": "user", "content": [{**part, name: value}]}]
        assert parse_messages(messages)[0].content == "hi"


async def test_over_http(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    answer = await client.post(
        "/v1/chat/completions",
        json=chat_body(guided_json=None, tools={}, stream_options={"include_usage": None}, stop=[]),
    )
    assert answer.status_code == 200, answer.text
