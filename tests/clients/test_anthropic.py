"""anthropic: tools, thinking, streams, the tool runner, counts."""

import json
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

import anthropic
from anthropic import beta_tool

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"name": "weather", "description": "Of a city.", "input_schema": CITY}]
ASKED = (
    'think Two cities.\ncall weather {"city": "Oslo"}\ncall weather {"city": "Rome"}\n'
    "say Cold, and warm."
)
RESULTS = {"Oslo": "-3", "Rome": "21"}


@pytest.fixture
def client(base_url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base_url, api_key="none", max_retries=0)


def ask(client: anthropic.Anthropic, messages: Any, is_streamed: bool, **more: Any) -> Any:
    asked = {"model": "demo", "max_tokens": 1000, "messages": messages, "tools": TOOLS, **more}
    if not is_streamed:
        return client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        assert [event for event in stream]
        return stream.get_final_message()


@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_loop(client: anthropic.Anthropic, is_streamed: bool, thinking: Any) -> None:
    more = {} if thinking is None else {"thinking": thinking}
    messages: list[Any] = [{"role": "user", "content": ASKED}]
    first = ask(client, messages, is_streamed, **more)
    assert first.stop_reason == "tool_use"
    kinds = [block.type for block in first.content]
    assert kinds == [*(["thinking"] if thinking else []), "tool_use", "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": RESULTS[block.input["city"]]}
        for block in first.content
        if block.type == "tool_use"
    ]
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": results},
    ]
    counted = client.messages.count_tokens(model="demo", messages=messages, tools=TOOLS)
    last = ask(client, messages, is_streamed)
    assert (last.content[-1].text, last.stop_reason) == ("Cold, and warm.", "end_turn")
    assert counted.input_tokens == last.usage.input_tokens


def test_the_tool_runner(client: anthropic.Anthropic) -> None:
    @beta_tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: Which.
        """
        return RESULTS[city]

    runner = client.beta.messages.tool_runner(
        model="demo",
        max_tokens=1000,
        tools=[weather],
        messages=[{"role": "user", "content": ASKED}],
    )
    said = list(runner)
    assert len(said) == 2
    assert said[-1].content[-1].text == "Cold, and warm."


def test_forced_calls(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        answer = ask(client, messages, False, tool_choice=choice)
        assert [block.input.keys() for block in answer.content] == [{"city"}]
    answer = ask(client, messages, False, tool_choice={"type": "none"})
    assert [block.type for block in answer.content] == ["text"]


def test_arguments_come_in_pieces(client: anthropic.Anthropic) -> None:
    messages: Any = [{"role": "user", "content": ASKED}]
    partial: dict[int, str] = {}
    for event in client.messages.create(
        model="demo", max_tokens=1000, messages=messages, tools=TOOLS, stream=True
    ):
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            partial[event.index] = partial.get(event.index, "") + event.delta.partial_json
    assert [json.loads(text)["city"] for text in partial.values()] == ["Oslo", "Rome"]
