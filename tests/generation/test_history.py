"""What of a stored conversation is read for a prompt."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamastream.errors import ContextLengthExceeded
from llamastream.generation.history import ITEM_BYTES, Continued, TokenSize, Window
from llamastream.generation.items import new_item, to_messages
from llamastream.records import Outline
from llamastream.store.rows import item_row
from llamastream.text import PromptBuilder, Tokenizer, fit_context
from llamastream.types import Message, Role
from tests.doubles.tokenizer import byte_tokenizer_config

TOKENIZER = Tokenizer(byte_tokenizer_config())
BUILDER = PromptBuilder.from_config(TOKENIZER, None)
SIZE = TokenSize(TOKENIZER)
CONTEXT = 300
MOST = CONTEXT * SIZE.most_bytes


def window(truncation: Literal["disabled", "auto"], max_model_len: int = CONTEXT) -> Window:
    return Window(Continued("c", None, truncation), SIZE, max_model_len=max_model_len)


def outlines(*said: tuple[Role, int]) -> list[Outline]:
    """Of items by their roles and the sizes of their texts."""
    return [Outline(ITEM_BYTES + size, role) for role, size in said]


def test_what_may_fit_is_read_whole() -> None:
    for truncation in ("disabled", "auto"):
        assert list(window(truncation).choose(outlines(*[("user", 30)] * 10))) == list(range(10))


def test_what_cannot_fit_is_refused_unread_with_the_numbers() -> None:
    with pytest.raises(ContextLengthExceeded, match="maximum context length is 300 tokens") as e:
        window("disabled").choose(outlines(*[("user", MOST)] * 10))
    assert e.value.param == "messages"


def test_system_messages_and_the_newest_turns_are_read() -> None:
    turns: list[tuple[Role, int]] = [("user", MOST // 4), ("assistant", MOST // 8)]
    chosen = window("auto")
    got = chosen.choose(outlines(("system", 10), *turns * 20))
    assert got[0] == 0 and list(got[1:]) == list(range(got[1], 41))
    assert got[1] % 2 == 1  # a user's
    assert chosen.num_unread_turns == (got[1] - 1) // 2 > 0


def test_newest_turn_that_is_too_long_for_anything_leaves_nothing_to_read() -> None:
    chosen = window("auto")
    assert list(chosen.choose(outlines(("user", 5), ("user", 2 * MOST)))) == []
    assert chosen.num_unread_turns == 2


ROLES = st.sampled_from(("user", "assistant", "system"))
SIZES = st.one_of(st.integers(0, 50), st.integers(0, MOST), st.integers(0, 3 * MOST))


@given(st.lists(st.tuples(ROLES, SIZES), max_size=60))
def test_window_holds_no_more_than_can_fit_and_begins_a_turn(said: list[tuple[Role, int]]) -> None:
    found = outlines(*said)
    chosen = window("auto")
    got = list(chosen.choose(found))
    head = next((k for k, (role, _) in enumerate(said) if role != "system"), len(said))
    assert got[:head] == list(range(head))
    tail = got[head:]
    assert tail == list(range(len(said) - len(tail), len(said)))
    assert sum(said[k][1] for k in tail) <= MOST
    if len(got) < len(said):
        assert not tail or said[tail[0]][0] == "user"
        unread = [said[k][0] for k in range(head, len(said) - len(tail))]
        assert chosen.num_unread_turns == unread.count("user") + (unread[0] != "user")
    else:
        assert chosen.num_unread_turns == 0


def test_window_moves_seldom_as_the_conversation_grows() -> None:
    """So that the beginning of the prompt, which is cached, stays the same."""
    said: list[tuple[Role, int]] = []
    starts = []
    for _ in range(400):
        said += [("user", MOST // 100), ("assistant", MOST // 50)]
        starts.append(window("auto").choose(outlines(*said))[0])
    assert starts == sorted(starts)
    assert 2 < len(set(starts)) < 30


TEXTS = st.text(st.characters(codec="utf-8"), max_size=300)


@given(st.lists(TEXTS, max_size=8), st.integers(40, 600))
def test_what_fits_is_never_refused_nor_left_unread(texts: list[str], context: int) -> None:
    items = [new_item("user" if k % 2 == 0 else "assistant", [t]) for k, t in enumerate(texts)]
    rows = [item_row(item) for item in items]
    found = [Outline(row["num_bytes"], row["role"]) for row in rows]
    try:
        messages = (*to_messages(items), Message("user", "x"))
        fit_context(
            BUILDER,
            TOKENIZER,
            messages,
            truncation="disabled",
            max_tokens=1,
            max_model_len=context,
        )
    except ContextLengthExceeded:
        return
    assert len(window("disabled", context).choose(found)) == len(items)
