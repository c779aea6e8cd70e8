"""Stop strings: never shown, found across pieces, and nothing held back without need."""

from collections.abc import Callable
from typing import Any

import pytest
from chat_builders import examples, stream
from hypothesis import given
from hypothesis import strategies as st

from llamastream.errors import InvalidRequest
from llamastream.text import StopMatcher, Tokenizer

STOPS = st.lists(st.text("ab🙂\n", min_size=1, max_size=5), min_size=1, max_size=4)
PIECES = st.lists(st.text("ab🙂\n", max_size=4), max_size=12)


def feed(stops: list[str], pieces: list[str], *, include: bool = False) -> tuple[str, str | None]:
    """All visible text, and the stop string that matched."""
    matcher = StopMatcher(stops, include=include)
    visible = ""
    for piece in pieces:
        text, matched = matcher.add(piece)
        visible += text
        assert matched == (matcher.matched is not None)
    return visible + matcher.finish(), matcher.matched


def _named(cases: list[Any], *prefixes: str) -> list[Any]:
    found = [case for case in cases if case["name"].startswith(prefixes)]
    assert found
    return found


def test_texts_are_cut_as_published(shared_json: Callable[[str], Any]) -> None:
    for case in _named(shared_json("stop_strings.json"), "ollama/"):
        assert feed(case["stop"], case["pieces"])[0] == case["expected_text"], case["name"]


def test_matches_are_chosen_as_published(shared_json: Callable[[str], Any]) -> None:
    for case in _named(shared_json("stop_strings.json"), "vllm/"):
        text, new = case["text"], case["new_char_count"]
        pieces = [text[:-new], text[-new:]]
        visible, matched = feed(case["stop"], pieces, include=case["include_stop_str"])
        if case["expected"] is None:
            assert (visible, matched) == (text, None), case["name"]
        else:
            stop, cut = case["expected"]
            assert (visible, matched) == (text if cut == -1 else text[:cut], stop), case["name"]


def test_a_scripted_model_stops_as_published(
    llama2: Tokenizer, shared_json: Callable[[str], Any]
) -> None:
    for case in _named(shared_json("stop_strings.json"), "vllm_llama2/"):
        ids = case["scripted_token_ids"]
        ends = [n for n, token_id in enumerate(ids) if token_id in case.get("stop_token_ids", ())]
        deltas, flush = stream(llama2, ids[: ends[0]] if ends else ids)
        stops, include = case.get("stop", []), case["include_stop_str"]
        visible, matched = feed(stops, [*deltas, flush], include=include)
        expected = case["expected_text"]
        assert visible == expected, case["name"]
        assert ends or matched == case["stop_reason"], case["name"]


def test_a_sequence_over_tokens_matches_when_it_is_complete(
    shared_json: Callable[[str], Any],
) -> None:
    probe, across, length = _named(shared_json("stop_strings.json"), "tgi/")
    for text, expected in probe["probe"][:3]:
        assert StopMatcher([probe["stop"]]).add(text)[1] == expected
    # Beyond its end a match stays a match: the stream ended there.
    assert StopMatcher([probe["stop"]]).add(probe["probe"][3][0]) == ("", True)
    matcher = StopMatcher([across["stop"]])
    got = [matcher.add(text)[1] for _, text in across["stream"]]
    assert got == [reason == "stop_sequence" for reason in across["expected"]]
    matcher = StopMatcher(["x"])
    assert not any(matcher.add(text)[1] for _, text in length["stream"])


@given(stops=STOPS, pieces=PIECES, include=st.booleans())
@examples(1000)
def test_what_is_visible_does_not_depend_on_the_pieces(
    stops: list[str], pieces: list[str], include: bool
) -> None:
    assert feed(stops, pieces, include=include) == _by_hand(stops, "".join(pieces), include)


def _by_hand(stops: list[str], text: str, include: bool) -> tuple[str, str | None]:
    """The text read character by character until it ends in a stop string."""
    for end in range(len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


@given(stops=STOPS, pieces=PIECES)
@examples(1000)
def test_only_what_may_become_a_stop_string_is_held_back(
    stops: list[str], pieces: list[str]
) -> None:
    matcher, visible, read = StopMatcher(stops), "", ""
    for piece in pieces:
        text, matched = matcher.add(piece)
        if matched:
            return
        visible, read = visible + text, read + piece
        held = read[len(visible) :]
        assert read == visible + held
        assert held == _longest_prefix_at_end(stops, read)


def _longest_prefix_at_end(stops: list[str], text: str) -> str:
    prefixes = {stop[:length] for stop in stops for length in range(len(stop))}
    return max((prefix for prefix in prefixes if text.endswith(prefix)), key=len)


def test_nothing_is_visible_after_a_match() -> None:
    matcher = StopMatcher(["b"])
    assert matcher.add("abc") == ("a", True)
    assert matcher.add("def") == ("", True)
    assert matcher.finish() == ""


def test_without_stop_strings_text_passes_at_once() -> None:
    matcher = StopMatcher([])
    assert matcher.add("abc") == ("abc", False)


def test_the_listed_order_decides_between_stops_complete_together() -> None:
    assert feed(["b", "ab"], ["ab"]) == ("a", "b")
    assert feed(["ab", "b"], ["a", "b"]) == ("", "ab")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        StopMatcher(["a", ""])
