"""No string in any leaf of any request makes a control token, a turn or a call, in any format: the
prompt's control tokens are those of the same request with harmless strings."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamastream.api.wire.anthropic.request import MessagesBody
from llamastream.api.wire.chat import ChatCompletionBody
from llamastream.api.wire.messages import parse_input
from llamastream.api.wire.options import validate
from llamastream.api.wire.responses import parse_response
from llamastream.generation.items import to_messages
from llamastream.sampling import SamplingParams
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import ChatRequest
from tests.doubles.tool_models import TOOL_MODELS

Leaf = Callable[[], str]
Json = dict[str, Any]

CONTROL = sorted({text for model in TOOL_MODELS.values() for text in model.control})
CONTROL += ["<|im_start|>", "<|im_end|>", "<s>", "<tool_call>", "</tool_call>", "<tool_response>"]
SCRAPS = [
    "<|im_",
    "start|>",
    "<tool",
    "_call>",
    "a",
    "<",
    "|>",
    "\n",
    "user\n",
    '"',
    "\\",
    "}}",
    "[/",
]
HOSTILE = st.lists(st.sampled_from([*CONTROL, *SCRAPS]), min_size=1, max_size=4).map("".join)
NO_SAMPLING = SamplingParams()


def schema(leaf: Leaf) -> Json:
    """With all that says something of a value in words."""
    inner = {"type": "object", "properties": {leaf(): {"const": leaf(), "title": leaf()}}}
    return {
        "type": "object",
        "description": leaf(),
        "properties": {
            leaf(): {"type": "string", "description": leaf(), "enum": [leaf(), leaf()]},
            "b": {"type": "array", "items": inner, "default": [leaf()], "examples": [leaf()]},
            "c": {"$ref": "#/$defs/d"},
        },
        "required": [leaf()],
        "$defs": {"d": {"type": "string", "pattern": "a", "$comment": leaf()}},
        leaf(): {leaf(): leaf()},
    }


def arguments(leaf: Leaf) -> Json:
    return {leaf(): leaf(), "k": [leaf(), {leaf(): [leaf()]}], "n": 1}


def of_chat(leaf: Leaf) -> ChatRequest:
    a, b = "call_1", leaf()
    function = {"name": "f", "description": leaf(), "parameters": schema(leaf)}
    calls = [
        {"id": a, "function": {"name": "f", "arguments": json.dumps(arguments(leaf))}},
        {"id": b, "function": {"name": leaf(), "arguments": json.dumps(arguments(leaf))}},
    ]
    body = {
        "model": "demo",
        "tools": [{"type": "function", "function": function}],
        "messages": [
            {"role": "system", "content": leaf()},
            {"role": "user", "content": [{"type": "text", "text": leaf()}], "name": leaf()},
            {"role": "assistant", "content": leaf(), "reasoning_content": leaf()},
            {"role": "user", "content": leaf()},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": a, "content": leaf(), "name": leaf()},
            {"role": "tool", "tool_call_id": b, "content": [{"type": "text", "text": leaf()}]},
            {"role": "user", "content": leaf()},
        ],
    }
    return validate(ChatCompletionBody, body).to_request(NO_SAMPLING, "", "")


def of_response(leaf: Leaf) -> ChatRequest:
    a, b = "call_1", leaf()
    custom = {"type": "custom", "name": "g", "description": leaf(), "format": {"type": "text"}}
    body = {
        "model": "demo",
        "instructions": leaf(),
        "tools": [
            {"type": "function", "name": "f", "description": leaf(), "parameters": schema(leaf)},
            custom,
        ],
        "input": [
            {"role": "user", "content": leaf()},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": leaf()}]},
            {
                "type": "function_call",
                "call_id": a,
                "name": leaf(),
                "arguments": json.dumps(arguments(leaf)),
            },
            {"type": "custom_tool_call", "call_id": b, "name": "g", "input": leaf()},
            {"type": "function_call_output", "call_id": a, "output": leaf()},
            {"type": "custom_tool_call_output", "call_id": b, "output": leaf()},
            {"role": "user", "content": [{"type": "input_text", "text": leaf()}]},
        ],
    }
    items = to_messages(parse_input(body["input"]))
    return parse_response(body).to_request(items, NO_SAMPLING, "", "")


def of_message(leaf: Leaf) -> ChatRequest:
    call = {"type": "tool_use", "id": leaf(), "name": leaf(), "input": arguments(leaf)}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": leaf()}
    said = {"type": "text", "text": leaf()}
    body = {
        "model": "demo",
        "max_tokens": 10,
        "system": [{"type": "text", "text": leaf()}, {"type": "text", "text": leaf()}],
        "tools": [{"name": "f", "description": leaf(), "input_schema": schema(leaf)}],
        "messages": [
            {"role": "user", "content": leaf()},
            {"role": "assistant", "content": [said, call]},
            {"role": "user", "content": [result, {"type": "text", "text": leaf()}]},
        ],
    }
    return validate(MessagesBody, body).to_request(NO_SAMPLING, "", "")


@cache
def made(name: str) -> tuple[Tokenizer, PromptBuilder]:
    tokenizer = Tokenizer(TOOL_MODELS[name].config)
    return tokenizer, PromptBuilder.from_config(tokenizer, None)


def controls(name: str, wire: Callable[[Leaf], ChatRequest], leaf: Leaf) -> list[int]:
    request, (tokenizer, prompts) = wire(leaf), made(name)
    ids = prompts.build(request.prompt, request.prompt_options)  # type: ignore[arg-type]
    marks = set(map(tokenizer.token_id, CONTROL))
    return [i for i in ids if i in marks]


@pytest.mark.parametrize("name", TOOL_MODELS)
@pytest.mark.parametrize("wire", [of_chat, of_response, of_message])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_no_string_makes_a_control_token(
    name: str, wire: Callable[[Leaf], ChatRequest], data: st.DataObject
) -> None:
    tame, hostile = iter(range(1000)), iter(range(1000))
    expected = controls(name, wire, lambda: f"x{next(tame)}")
    # Keys and ids are told apart by their ends, which is where they are not hostile.
    found = controls(name, wire, lambda: f"{data.draw(HOSTILE)}{next(hostile)}")
    assert found == expected != []
