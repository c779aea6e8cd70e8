"""Grammars that begin behind the reasoning, and how long that may be."""

import json
from functools import cache
from random import Random

import numpy as np
import pytest
from tests.doubles.tokenizer import END_THINK, IM_END, THINK, byte_tokenizer_config
from tests.grammar.vocabularies import vocabulary_of

from llamastream.grammar import Grammars, Reasoned, Tags, Vocabulary
from llamastream.text import Tokenizer
from llamastream.types import Constraint, GrammarKind, GrammarSpec, ReasoningStart

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ANSWER = b'{"a":1}'
OPENED, POSSIBLE = ReasoningStart.OPENED, ReasoningStart.POSSIBLE


@cache
def vocabulary() -> Vocabulary:
    return vocabulary_of(Tokenizer(byte_tokenizer_config(reasons=True)))


@cache
def reasoned(start: ReasoningStart, *, free: bool = False, budget: int | None = None) -> Reasoned:
    tags = Tags(THINK, END_THINK, vocabulary)
    spec = GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
    grammar = None if free else Grammars(vocabulary).compile(spec, False)
    return Reasoned(grammar, tags, start, budget)


def allowed(constraint: Constraint) -> set[int]:
    bits = np.unpackbits(np.frombuffer(constraint.mask(), np.uint8), bitorder="little")
    return set(map(int, np.flatnonzero(bits)))


def refused_at(constraint: Constraint, ids: list[int]) -> int | None:
    """The place of the first token that may not come there; each is drawn by its mask."""
    for place, token_id in enumerate(ids):
        if token_id not in allowed(constraint):
            return place
        if token_id != IM_END:  # nothing follows that
            constraint.append([token_id])
    return None


THOUGHT = [*b"Hm, <so> {", END_THINK]


@pytest.mark.parametrize(
    ("start", "ids", "place"),
    [
        (OPENED, [*THOUGHT, *ANSWER, IM_END], None),
        (OPENED, [*THOUGHT, *b"\n\n", *ANSWER, IM_END], None),
        (OPENED, [*THOUGHT, *b"\n\n\n", *ANSWER], len(THOUGHT) + 2),
        (OPENED, [*THOUGHT, *b"So:"], len(THOUGHT)),
        (OPENED, [END_THINK, *ANSWER, IM_END], None),
        (OPENED, [*b"Hm", IM_END], 2),  # an answer is asked for
        (OPENED, [*b"a</think>"], len("a</think")),  # in other tokens than its own
        (OPENED, [*b"a<</think>"], len("a<</think")),
        (OPENED, [*b"a</thin</k>", END_THINK, *ANSWER, IM_END], None),
        (POSSIBLE, [*ANSWER, IM_END], None),
        (POSSIBLE, [THINK, *THOUGHT, *ANSWER, IM_END], None),
        (POSSIBLE, [*b"\n"], 0),
        (POSSIBLE, [END_THINK], 0),
    ],
)
def test_the_grammar_begins_behind_it(
    start: ReasoningStart, ids: list[int], place: int | None
) -> None:
    assert refused_at(reasoned(start).start(), ids) == place


@pytest.mark.parametrize("free", [True, False])
def test_a_budget_closes_it(free: bool) -> None:
    constraint = reasoned(OPENED, free=free, budget=3).start()
    assert refused_at(constraint, [*b"abc"]) is None
    assert allowed(constraint) == {END_THINK}
    assert constraint.forced() == [END_THINK]
    constraint.append([END_THINK])
    assert constraint.forced() == []
    if free:
        assert len(allowed(constraint)) == vocabulary().size
    assert refused_at(constraint, [*ANSWER, IM_END]) is None


def test_a_place_is_a_function_of_the_tokens() -> None:
    """However they are given, and in a copy."""
    ids = [THINK, *THOUGHT, *b"\n", *ANSWER]
    random = Random(1)
    for _ in range(20):
        step, pieces = reasoned(POSSIBLE, budget=20).start(), reasoned(POSSIBLE, budget=20).start()
        cut = random.randrange(len(ids) + 1)
        pieces.append(ids[:cut])
        for token_id in ids[:cut]:
            step.append([token_id])
        assert pieces.mask() == step.mask() == pieces.fork().mask()
        rest = [*ids[cut:], *b"?"]
        assert pieces.num_allowed(rest) == len(rest) - 1
        assert pieces.mask() == step.mask()
        assert (pieces.fork().forced()) == step.forced()
