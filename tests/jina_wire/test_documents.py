"""A PromptDocument becomes a ChatRequest, or an error that names its field."""

from typing import Any

import pytest

from llamastream.errors import InvalidRequest
from llamastream.generation import NewAnswer
from llamastream.generation.log import NO_TOKEN
from llamastream.jina.documents import MAX_PROMPT_BYTES, PromptRequest
from llamastream.jina.format import Documents
from llamastream.sampling import SamplingParams
from llamastream.types import Delta, FinishReason, Message, TokenLogprob, ToolCall, ToolResult
from tests.doubles.scripted_answers import ScriptedAnswer


def parse(text: bool = False, **fields: object) -> Any:
    return PromptRequest(fields, text=text).to_request()


def test_article_document_is_a_greedy_raw_prompt() -> None:
    request = parse(id="0" * 32, prompt="[INST] Hi [/INST]", max_tokens=5)
    assert request.prompt == "[INST] Hi [/INST]"
    assert request.sampling == SamplingParams(max_tokens=5, temperature=0.0)


def test_messages_are_a_conversation() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    request = parse(messages=turns, prompt="", max_tokens=5)
    assert request.prompt == (Message("system", "Be brief."), Message("user", "Hi"))


def test_optional_fields_reach_the_sampler() -> None:
    request = parse(
        prompt="a",
        max_tokens=5,
        temperature=1,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        seed=11,
        stop=["\n"],
        ignore_eos=True,
        truncation="auto",
        logprobs=True,
    )
    assert request.sampling == SamplingParams(
        5, 1.0, 0.5, 7, 0.1, 1.1, 0.2, 0.3, seed=11, logprobs=0
    )
    assert (request.stop, request.ignore_eos, request.truncation) == (("\n",), True, "auto")


def test_none_counts_as_absent_and_unknown_fields_are_ignored() -> None:
    request = parse(prompt="a", max_tokens=5, temperature=None, seed=None, colour="red", id=None)
    assert request == parse(prompt="a", max_tokens=5)


def test_empty_prompt_is_a_prompt() -> None:
    assert parse(prompt="", max_tokens=5).prompt == ""


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"max_tokens": 5}, "prompt", "prompt is missing"),
        ({"prompt": "a"}, "max_tokens", "max_tokens is missing"),
        ({"prompt": 3, "max_tokens": 5}, "prompt", "Given: 3"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens", "Given: 'many'"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens", "Given: True"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens", "Given: 1.5"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", ">= 1"),
        ({"prompt": "a", "max_tokens": -3}, "max_tokens", "Given: -3"),
        ({"prompt": "a", "max_tokens": 5, "temperature": float("nan")}, "temperature", "finite"),
        ({"prompt": "a", "max_tokens": 5, "top_p": 2.0}, "top_p", "<= 1.0"),
        ({"prompt": "a", "max_tokens": 5, "stop": "x"}, "stop", "Given: 'x'"),
        ({"prompt": "a", "max_tokens": 5, "stop": [""]}, "stop", "at least 1"),
        ({"prompt": "a", "max_tokens": 5, "stop": ["x"] * 17}, "stop", "at most 16"),
        ({"prompt": "a", "max_tokens": 5, "messages": [{}]}, "messages", "messages.0.role"),
        ({"messages": [], "max_tokens": 5}, "prompt", "is missing"),
        (
            {"messages": [{"role": "root", "content": "x"}], "max_tokens": 5},
            "messages",
            "Given: 'root'",
        ),
        (
            {"prompt": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
            "messages",
            "exclude each other",
        ),
        ({"prompt": "\ud800", "max_tokens": 5}, "prompt", "valid Unicode"),
        (
            {"prompt": "é" * MAX_PROMPT_BYTES, "max_tokens": 5},
            "prompt",
            f"<= {MAX_PROMPT_BYTES} bytes. Given: {2 * MAX_PROMPT_BYTES}",
        ),
    ],
)
def test_bad_document_is_refused_by_field(fields: dict[str, Any], param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        PromptRequest(fields).to_request()
    assert caught.value.param == param
    assert said in caught.value.message


def test_error_does_not_repeat_a_long_value() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(prompt="a", max_tokens="9" * 5000)
    assert len(caught.value.message) < 250


def test_query_strings_are_read_as_the_types_of_the_fields() -> None:
    request = parse(text=True, prompt="a", max_tokens="5", temperature="0.5", ignore_eos="true")
    assert request.sampling == SamplingParams(max_tokens=5, temperature=0.5)
    assert request.ignore_eos


NOW = '[{"type": "function", "function": {"name": "now"}}]'


def test_tools_calls_and_results_are_those_of_a_chat() -> None:
    call = '[{"id": "a", "function": {"name": "now", "arguments": "{}"}}]'
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "I look.", "tool_calls": call},
        {"role": "tool", "content": "9", "tool_call_id": "a"},
    ]
    request = parse(messages=turns, max_tokens=5, tools=NOW)
    (tool,) = request.prompt_options.tools
    assert (tool.name, tool.strict) == ("now", True)
    assert request.prompt == (
        Message("user", "Hi"),
        Message("assistant", ("I look.", ToolCall("a", "now", "{}"))),
        Message("tool", (ToolResult("a", "9"),)),
    )


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompt": "a", "tools": NOW}, "tools", "need messages"),
        ({"tools": "[{"}, "tools", "must be JSON"),
        ({"tools": "{}"}, "tools", "list"),
        ({"tools": '[{"type": "web_search"}]'}, "tools", "tools[0].type"),
        ({"tools": '[{"type": "function"}]'}, "tools[0].function", "required"),
        ({"turn": {"role": "tool", "content": "9"}}, "messages[0].tool_call_id", "string"),
        ({"turn": {"role": "assistant", "content": "", "tool_calls": "["}}, None, "must be JSON"),
        (
            {"turn": {"role": "assistant", "content": "", "tool_calls": "[1]"}},
            None,
            "tool_calls[0]",
        ),
    ],
)
def test_odd_tools_are_refused(fields: dict[str, Any], param: str | None, said: str) -> None:
    turn = fields.pop("turn", {"role": "user", "content": "Hi"})
    messages = {} if "prompt" in fields else {"messages": [turn]}
    with pytest.raises(InvalidRequest) as caught:
        parse(max_tokens=5, **messages, **fields)
    assert param in (None, caught.value.param)
    assert said in caught.value.message


def documents_of(*deltas: Delta, max_tokens: int = 5) -> list[dict[str, Any]]:
    answer = ScriptedAnswer([], NewAnswer("stream_" + "0" * 32, {"max_tokens": max_tokens}))
    documents = Documents(answer.generation)
    found: list[dict[str, Any]] = []
    for delta in deltas:
        token_id = delta.token_ids[0] if delta.token_ids else NO_TOKEN
        answer.generation.log.append(0, delta.text, token_id)
        found += documents.of_delta(delta)
    return found


async def test_one_document_per_delta_with_text() -> None:
    documents = documents_of(
        Delta(0, 0, "He", (10,)),
        Delta(0, 1, "", (11,)),
        Delta(0, 2, "🙂", (12,)),
    )
    assert [document["generated_text"] for document in documents] == ["He", "🙂"]
    assert [document["token_id"] for document in documents] == [10, 12]
    assert [document["sequence_number"] for document in documents] == [0, 2]
    assert len({document["id"] for document in documents}) == 2
    assert all(len(document["id"]) == 32 for document in documents)


async def test_text_flushed_at_the_end_has_the_last_token_id() -> None:
    documents = documents_of(
        Delta(0, 0, "", (10,)), Delta(0, 1, "\ufffd", (), (), FinishReason.LENGTH)
    )
    assert [(d["token_id"], d["generated_text"]) for d in documents] == [(10, "\ufffd")]
    assert documents[0]["finish_reason"] == "length"


async def test_finish_reason_goes_with_the_last_document() -> None:
    """But not where it may be sent already: then no reader finds it there."""
    deltas = (
        Delta(0, 0, "a", (10,)),
        Delta(0, 1, "b", (11,)),
        Delta(0, 2, "", (), (), FinishReason.LENGTH),
    )
    documents = documents_of(*deltas, max_tokens=2)
    assert [document.get("finish_reason") for document in documents] == [None, "length"]
    documents = documents_of(*deltas, max_tokens=3)
    assert [document.get("finish_reason") for document in documents] == [None, None]


async def test_logprob_is_that_of_the_token() -> None:
    (document,) = documents_of(Delta(0, 0, "a", (10,), (TokenLogprob(10, b"a", -0.5),)))
    assert document["logprob"] == -0.5
