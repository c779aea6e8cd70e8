"""Streamed text on a terminal: lines end between words, wherever the stream was cut."""

from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamastream.cli.printing import Piece, WordWrap, print_text
from llamastream.types import Reasoning, ToolCall


def wrapped(width: int | None, *pieces: str) -> str:
    wrap = WordWrap(width)
    return "".join(map(wrap.add, pieces)) + wrap.finish()


def test_a_word_that_does_not_fit_starts_the_next_line() -> None:
    assert (
        wrapped(12, "The capital of", " Fra", "nce is Paris.")
        == "The capital \nof France is\nParis."
    )


@pytest.mark.parametrize("text", ["a\n\n  b\n", "one two", "", " x ", "a\tb"])
def test_lines_that_fit_are_left_as_they_are(text: str) -> None:
    assert wrapped(20, text) == text


def test_wide_characters_take_two_columns() -> None:
    assert wrapped(6, "ab \u4f60\u597d") == "ab \n\u4f60\u597d"


def test_a_pipe_gets_the_text_at_once_and_unchanged() -> None:
    assert WordWrap(None).add("a long wo") == "a long wo"


@given(st.lists(st.text("ab \n\t", max_size=9)), st.integers(1, 12))
def test_only_breaks_are_added_and_spaces_at_them_lost(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    shown = wrapped(width, *pieces)
    assert shown == wrapped(width, text)
    assert shown.split() == text.split()
    for line in shown.expandtabs().split("\n"):
        assert len(line.rstrip()) <= width or len(line.split()) == 1


async def test_reasoning_is_no_part_of_what_a_pipe_gets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def answer() -> AsyncGenerator[Piece]:
        yield Reasoning("Hm.")
        yield "Yes."

    shown: list[Piece] = []
    await print_text(answer(), shown)
    assert shown == [Reasoning("Hm."), "Yes."]
    assert capsys.readouterr().out == "Yes.\n"


async def test_calls_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    async def answer() -> AsyncGenerator[Piece]:
        yield "I look."
        for id in "ab":
            for piece in ("", '{"a":', " 1}"):
                yield ToolCall(id, "now", piece)

    await print_text(answer(), [])
    assert capsys.readouterr().out == 'I look.\nnow {"a": 1}\nnow {"a": 1}\n'
