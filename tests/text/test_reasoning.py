"""Reasoning and text of an answer, for every cutting of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles.tokenizer import byte_tokenizer_config

from llamastream.text import ReasoningSplitter, Tokenizer, reasoning_start
from llamastream.types import Message, ReasoningStart

OPENED, POSSIBLE, CLOSED = ReasoningStart
PIECES = ["<think>", "</think>", "\n", "\n\n", " ", "<", "</", "</thi", "think>", "a", "b c", "é"]
answers = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def split(start: ReasoningStart, pieces: list[str]) -> tuple[str, str]:
    splitter = ReasoningSplitter(start)
    found = [*map(splitter.add, pieces), splitter.finish()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


@pytest.mark.parametrize(
    ("start", "answer", "thought", "text"),
    [
        (OPENED, "\nLet me see.\n</think>\n\nYes.", "Let me see.", "Yes."),
        (OPENED, "a\n\nb</think>c", "a\n\nb", "c"),
        (OPENED, "cut off amid</thin", "cut off amid</thin", ""),
        (OPENED, "a\n\n", "a", ""),
        (OPENED, "</think>\n\n  indented", "", "  indented"),
        (POSSIBLE, "<think>\n\n</think>\n\nYes.", "", "Yes."),
        (POSSIBLE, "\n <think>\na\n</think>\nYes\n", "a", "Yes\n"),
        (POSSIBLE, "Yes, <think>a</think>", "", "Yes, <think>a</think>"),
        (POSSIBLE, "\n<thi", "", "\n<thi"),
        (POSSIBLE, "<b>a</b>", "", "<b>a</b>"),
        (CLOSED, "Yes.</think>", "", "Yes.</think>"),
        (POSSIBLE, "<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        (POSSIBLE, "", "", ""),
    ],
)
def test_an_answer(start: ReasoningStart, answer: str, thought: str, text: str) -> None:
    assert split(start, [answer]) == (thought, text)
    assert split(start, list(answer)) == (thought, text)


@given(start=st.sampled_from(ReasoningStart), answer=answers, data=st.data())
def test_no_cutting_changes_it(start: ReasoningStart, answer: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(answer)), max_size=6).map(sorted))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    assert split(start, pieces) == split(start, [answer])


@given(start=st.sampled_from(ReasoningStart), answer=answers)
def test_nothing_is_lost_but_tags_and_new_lines(start: ReasoningStart, answer: str) -> None:
    def letters(text: str) -> str:
        return "".join(c for c in text if c in "abcé")

    thought, text = split(start, [answer])
    assert letters(thought + text) == letters(answer)


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("assistant\n<think>\n", OPENED),
        ("assistant\n<think>\n\n</think>\n\n", CLOSED),
        ("<think>assistant\n", POSSIBLE),
    ],
)
def test_a_prompts_end_tells_where_the_answer_begins(prompt: str, start: ReasoningStart) -> None:
    tokenizer = Tokenizer(byte_tokenizer_config())
    assert reasoning_start(tokenizer, list(prompt.encode()), None) is start


@pytest.mark.parametrize(
    ("begun", "start"),
    [("<think>\nSo", OPENED), ("<think>a</think>So", None), ("So", None), ("", POSSIBLE)],
)
def test_an_answer_that_was_begun(begun: str, start: ReasoningStart | None) -> None:
    tokenizer = Tokenizer(byte_tokenizer_config())
    continued = Message("assistant", begun)
    assert reasoning_start(tokenizer, list(f"assistant\n{begun}".encode()), continued) is start
