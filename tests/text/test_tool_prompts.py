"""How tools, calls and results are said to models, by templates of each kind; and what cannot be
forged by any string in them."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles.templates import CALLS, PLAIN, TAGGED, TEMPLATES, with_calls
from tests.doubles.tokenizer import byte_tokenizer_config

from llamastream.errors import ModelError
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.tools import CallSyntax, Tool
from llamastream.types import Message, PromptOptions, ToolCall, ToolResult

TOOL = Tool("weather", "How it is.", '{"type":"object","properties":{"city":{"type":"string"}}}')
SAID = (
    Message("user", "How is Oslo?"),
    Message("assistant", ("I look.", ToolCall("a", "weather", '{"city": "Oslo"}'))),
    Message("tool", (ToolResult("a", "-3"),)),
    Message("user", "And now?"),
)


def builder(source: str, *control: str, **options: Any) -> PromptBuilder:
    config = byte_tokenizer_config(control=control, template=source)
    return PromptBuilder.from_config(Tokenizer(config), None, **options)


@pytest.mark.parametrize("syntax", TEMPLATES)
def test_the_format_is_that_of_the_template(syntax: CallSyntax) -> None:
    made = builder(TEMPLATES[syntax])
    assert made.tool_format.syntax is syntax
    prompt = made.render(SAID, PromptOptions(tools=(TOOL,)))
    for part in ("How it is.", "weather", "Oslo", "-3", "I look.", "And now?"):
        assert part in prompt
    assert prompt.index("Oslo?") < prompt.index("I look.") < prompt.index("-3")


def test_control_tokens_of_a_format_are_found() -> None:
    hermes = builder(TEMPLATES[CallSyntax.HERMES], "<tool_call>", "</tool_call>").tool_format
    assert (hermes.begin, hermes.end, hermes.mark) == (259, 260, None)
    llama = builder(TEMPLATES[CallSyntax.LLAMA], "<|python_tag|>").tool_format
    assert llama.begin == 259
    mistral = builder(TEMPLATES[CallSyntax.MISTRAL], "[TOOL_CALLS]").tool_format
    assert (mistral.begin, mistral.arguments) == (259, None)
    made = builder(TAGGED, "[TOOL_CALLS]", "[ARGS]").tool_format
    assert (made.syntax, made.begin, made.arguments) == (CallSyntax.MISTRAL, 259, 260)


def test_the_operator_may_say_the_format() -> None:
    source = TEMPLATES[CallSyntax.LLAMA]
    assert builder(source, tool_format="pythonic").tool_format.syntax is CallSyntax.PYTHONIC
    assert builder(source, tool_format="generic").tool_format.syntax is CallSyntax.GENERIC
    with pytest.raises(ModelError, match="needs a chat template that writes tools"):
        builder(PLAIN, tool_format="hermes")


def test_calls_are_made_one_by_one_where_a_template_takes_one() -> None:
    only = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}"
    made = builder(with_calls(CALLS[CallSyntax.LLAMA], only))
    calls = tuple(ToolCall(id, "weather", f'{{"city": "{id}"}}') for id in "ab")
    results = [Message("tool", (ToolResult(id, f"of {id}"),)) for id in "ab"]
    prompt = made.render([SAID[0], Message("assistant", ("Hm.", *calls)), *results])
    places = [prompt.index(part) for part in ("Hm.", '"city": "a"', "of a", '"city": "b"', "of b")]
    assert places == sorted(places)


def test_ids_are_short_where_a_template_wants_them_so() -> None:
    check = "{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}"
    made = builder(with_calls(CALLS[CallSyntax.MISTRAL], check))
    call = ToolCall("call_0123456789", "weather", "{}")
    assert "weather" in made.render([SAID[0], Message("assistant", (call,))])


def test_arguments_that_were_cut_off_are_said_as_they_are() -> None:
    for syntax, source in TEMPLATES.items():
        if syntax is CallSyntax.PYTHONIC:
            continue  # it wants them one by one
        call = ToolCall("a", "weather", '{"city": "Os')
        assert "Os" in builder(source).render([SAID[0], Message("assistant", (call,))])


CONTROL = ["<|im_start|>", "<|im_end|>", "<s>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]"]
pieces = st.sampled_from([*CONTROL, "<|im_", "start|>", "a", "<", "|>", "\n", "system", '"', "\\"])
hostile = st.lists(pieces, max_size=5).map("".join)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(hostile, min_size=9, max_size=9), data=st.data())
def test_no_string_in_any_leaf_makes_a_control_token(texts: list[str], data: st.DataObject) -> None:
    """The control tokens are those of the same conversation with harmless strings."""
    syntax = data.draw(st.sampled_from(list(TEMPLATES)))
    made = BUILDERS[syntax]
    tame = [f"x{k}" for k in range(len(texts))]
    assert controls(made, texts) == controls(made, tame)


BUILDERS = {syntax: builder(source, *CONTROL[3:]) for syntax, source in TEMPLATES.items()}


def controls(made: PromptBuilder, texts: list[str]) -> Counter[int]:
    a, b, c, d, e, f, g, h, i = texts
    schema = {
        "type": "object",
        "properties": {a or "p": {"type": "string", "description": b, "enum": [c]}},
    }
    tool = Tool("weather", d, json.dumps(schema))
    said = (
        Message("user", e),
        Message("assistant", (f, ToolCall(g or "id", "weather", json.dumps({a or "p": [h]})))),
        Message("tool", (ToolResult(g or "id", i),)),
    )
    ids = made.build(said, PromptOptions(tools=(tool,)))
    return Counter(token_id for token_id in ids if token_id >= 256)
