"""openai: loops of calls and results, streamed and whole, over chats and responses."""

import json
from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

import openai
from pydantic import BaseModel

ASKED = 'call weather {"city": "Oslo"}\ncall weather {"city": "Rome"}\nsay Cold, and warm.'
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "The weather of a city.", "parameters": CITY}
RESULTS = {"Oslo": "-3", "Rome": "21"}


class Weather(BaseModel):
    """The weather of a city."""

    city: str


@pytest.fixture
def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0)


def chat(client: openai.OpenAI, messages: list[Any], is_streamed: bool) -> Any:
    tools: Any = [{"type": "function", "function": TOOL}]
    asked: Any = {"model": "demo", "messages": messages, "tools": tools}
    if not is_streamed:
        return client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        assert "chunk" in kinds
        return stream.get_final_completion()


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_chat_of_calls_and_results(client: openai.OpenAI, is_streamed: bool) -> None:
    messages: list[Any] = [{"role": "user", "content": ASKED}]
    choice = chat(client, messages, is_streamed).choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Oslo", "Rome"]
    messages.append(choice.message)
    for call in calls:
        result = RESULTS[json.loads(call.function.arguments)["city"]]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    choice = chat(client, messages, is_streamed).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Cold, and warm.", "stop")


def test_calls_as_types(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Weather)  # strict
    asked: Any = [{"role": "user", "content": 'call Weather {"city": "Oslo"}'}]
    answer = client.chat.completions.parse(model="demo", messages=asked, tools=[tool])
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == Weather(city="Oslo")
    response = client.responses.parse(
        model="demo", input=asked, tools=[{**TOOL, "name": "Weather", "type": "function"}]
    )
    (item,) = response.output
    assert json.loads(item.arguments) == {"city": "Oslo"}


def respond(client: openai.OpenAI, is_streamed: bool, **asked: Any) -> Any:
    asked |= {"model": "demo", "tools": [{"type": "function", "strict": False, **TOOL}]}
    if not is_streamed:
        return client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        for number, event in enumerate(stream):
            assert event.sequence_number == number
        return stream.get_final_response()


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("is_stored", [False, True])
def test_a_response_of_calls_and_results(
    client: openai.OpenAI, is_streamed: bool, is_stored: bool
) -> None:
    said: list[Any] = [{"role": "user", "content": ASKED}]
    first = respond(client, is_streamed, input=said, store=is_stored)
    calls = [item for item in first.output if item.type == "function_call"]
    results = [
        {
            "type": "function_call_output",
            "call_id": call.call_id,
            "output": RESULTS[json.loads(call.arguments)["city"]],
        }
        for call in calls
    ]
    assert [result["output"] for result in results] == ["-3", "21"]
    if is_stored:
        more: dict[str, Any] = {"previous_response_id": first.id, "input": results}
    else:
        more = {"input": [*said, *first.output, *results], "store": False}
    assert respond(client, is_streamed, **more).output_text == "Cold, and warm."


def test_reasoning(client: openai.OpenAI) -> None:
    asked = "think Far north.\nsay Cold."
    with client.responses.stream(model="demo", input=asked) as stream:
        thought = [e.delta for e in stream if e.type == "response.reasoning_text.delta"]
        response = stream.get_final_response()
    assert ("".join(thought), response.output_text) == ("Far north.", "Cold.")
    assert response.usage.output_tokens_details.reasoning_tokens > 0
