"""What a mask allows: the grammar's own text, an end where that may be, and nothing else."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from tests.doubles.tokenizer import byte_tokenizer_config
from vocabularies import (
    allowed,
    compiled,
    grammars_of,
    schema,
    takes,
    tokenizer_of,
    vocabulary_of,
)

from llamastream.errors import InternalError, InvalidRequest
from llamastream.grammar import Compiled, Grammars, version_of
from llamastream.text import Tokenizer
from llamastream.types import GrammarKind, GrammarSpec

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
NAMES = ["bytes", "llama2", "demo"]


def walk(grammar: Compiled, name: str, seed: int, most: int = 200) -> list[int]:
    """An answer drawn at random from what is allowed, to its end."""
    rng, constraint, ids = random.Random(seed), grammar.start(), list[int]()
    stops = set(tokenizer_of(name).eos_token_ids)
    while len(ids) < most:
        found = sorted(allowed(constraint))
        ids.append(rng.choice(found))
        if ids[-1] in stops:
            return ids
        constraint.append(ids[-1:])
    raise AssertionError("it does not end")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_drawn_fits_the_schema(name: str, seed: int) -> None:
    text = tokenizer_of(name).decode(walk(schema(name, PERSON), name, seed))
    answer = json.loads(text)
    assert answer.keys() <= PERSON["properties"].keys() and len(answer["name"]) <= 8
    assert 0 <= answer["age"] <= 150 and len(answer.get("tags", [])) <= 3
    assert text == json.dumps(answer, separators=(",", ":"), ensure_ascii=False) or "\\" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_is_a_function_of_the_tokens_alone(name: str) -> None:
    """Another process replays them, without masks between, and forced tokens asked for or not."""
    grammar = schema(name, PERSON)
    ids = walk(grammar, name, 7)[:-1]
    other = Grammars(lambda: vocabulary_of(tokenizer_of(name))).compile(
        GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(PERSON)), True
    )
    stepping = grammar.start()
    for count in range(len(ids) + 1):
        replayed = other.start()
        replayed.append(ids[:count])
        assert stepping.mask() == replayed.mask() == stepping.fork().mask()
        stepping.forced()
        if count < len(ids):
            stepping.append([ids[count]])


@pytest.mark.parametrize("name", NAMES)
def test_no_control_token_is_allowed_but_an_end_where_the_grammar_ends(name: str) -> None:
    tokenizer = tokenizer_of(name)
    special, stops = tokenizer.special_ids, set(tokenizer.eos_token_ids)
    for grammar in (schema(name, {}), compiled(name, GrammarKind.REGEX, "(.|\n)*")):
        constraint = grammar.start()
        assert not allowed(constraint) & (special - stops)
    constraint = schema(name, {"type": "object"}).start()
    assert not allowed(constraint) & special
    constraint.append(tokenizer.encode("{}", add_bos=False))
    assert allowed(constraint) == stops


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_control_token_stays_text(name: str) -> None:
    tokenizer = tokenizer_of(name)
    mark = max(tokenizer.special_texts, key=len)
    ids = tokenizer.encode(json.dumps(mark), add_bos=False)
    assert not set(ids) & tokenizer.special_ids
    assert takes(schema(name, {"type": "string"}), tokenizer, ids)


@pytest.mark.parametrize("name", NAMES)
def test_what_must_be_said_may_hold_the_text_of_a_control_token(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for text in sorted(tokenizer.special_texts):
        answer = json.dumps({text: f"a {text}"}, separators=(",", ":"), ensure_ascii=False)
        grammar = schema(
            name,
            {
                "type": "object",
                "properties": {text: {"const": f"a {text}"}},
                "required": [text],
                "additionalProperties": False,
            },
        )
        ids = walk(grammar, name, seed=1)
        assert tokenizer.decode(ids) == answer
        assert tokenizer.special_ids.isdisjoint(ids[:-1])  # behind it the turn ends


def test_what_must_be_said_may_hold_an_added_token_in_angle_brackets() -> None:
    tokenizer = Tokenizer(byte_tokenizer_config(words=("<td>", "[x]")))
    choices = json.dumps(["a <td> [x]"])
    spec = GrammarSpec(GrammarKind.CHOICE, choices)
    constraint = Grammars(lambda: vocabulary_of(tokenizer)).compile(spec, True).start()
    assert constraint.forced() == [*b"a <td> ", tokenizer.token_id("[x]")]


def test_what_is_forced_is_all_that_is_allowed() -> None:
    for seed in range(5):
        grammar = schema("demo", PERSON)
        constraint, num_forced = grammar.start(), 0
        for token_id in walk(grammar, "demo", seed)[:-1]:
            fork = constraint.fork()
            for forced in constraint.forced():
                assert allowed(fork) == {forced}
                fork.append([forced])
                num_forced += 1
            constraint.append([token_id])
        assert num_forced


def test_as_many_tokens_are_counted_as_may_come_next() -> None:
    tokenizer = tokenizer_of("demo")
    constraint = schema("demo", PERSON).start()
    ids = tokenizer.encode('{"name":"Al","age":7}', add_bos=False)
    assert constraint.num_allowed(ids) == len(ids)
    wrong = tokenizer.encode('{"name":"Al","eye":7}', add_bos=False)
    assert 0 < constraint.num_allowed(wrong) < len(wrong)
    assert constraint.num_allowed([*ids, *tokenizer.eos_token_ids]) == len(ids)
    assert constraint.num_allowed(list(tokenizer.eos_token_ids)) == 0
    assert constraint.num_allowed([]) == 0
    assert constraint.num_allowed(ids) == len(ids)  # nothing was taken


def test_a_fork_goes_its_own_way() -> None:
    tokenizer = tokenizer_of("bytes")
    constraint = schema("bytes", PERSON).start()
    before = constraint.mask()
    fork = constraint.fork()
    fork.append(tokenizer.encode('{"name"'))
    assert constraint.mask() == before != fork.mask()


class TestASpaceInFrontThatNobodySees:
    def test_an_answer_may_begin_with_it(self) -> None:
        tokenizer = tokenizer_of("llama2")
        grammar = schema("llama2", PERSON)
        ids = tokenizer.encode('{"name":"Al","age":7}', add_bos=False)
        assert tokenizer.token_bytes(ids[0]).startswith(b" ") and takes(grammar, tokenizer, ids)
        bare = tokenizer.encode('\n{"name":"Al","age":7}', add_bos=False)[2:]
        assert tokenizer.token_bytes(bare[0])[:1] == b"{" and takes(grammar, tokenizer, bare)

    def test_not_where_the_answer_goes_on_with_the_prompts_text(self) -> None:
        tokenizer = tokenizer_of("llama2")
        spec = GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(PERSON))
        grammar = grammars_of("llama2").compile(spec, False)
        ids = tokenizer.encode('{"name":"Al","age":7}', add_bos=False)
        assert not takes(grammar, tokenizer, ids)

    @pytest.mark.parametrize("text", [" yes", "yes", "  yes"])
    def test_a_grammar_that_begins_with_a_space_keeps_its_own(self, text: str) -> None:
        """The byte of a space, which the first place of a text does show, is not allowed."""
        tokenizer = tokenizer_of("llama2")
        grammar = compiled("llama2", GrammarKind.CHOICE, [text, "no"])
        for seed in range(8):
            ids = walk(grammar, "llama2", seed)
            assert tokenizer.decode(ids) in (text, "no")


def test_what_only_other_vocabularies_can_write_is_an_error() -> None:
    """This one has no byte of it: the grammar allows what no token is."""
    tokenizer = tokenizer_of("bytes")
    short = replace(vocabulary_of(tokenizer), token_bytes=lambda i: b"" if i == 200 else b"\0")
    grammar = Grammars(lambda: short).compile(GrammarSpec(GrammarKind.REGEX, "a"), True)
    with pytest.raises(InvalidRequest, match="no token that it allows"):
        grammar.start().mask()


def test_a_token_that_the_parser_reads_as_another_text_is_not_allowed() -> None:
    tokenizer = tokenizer_of("bytes")
    lies = {ord("b"): b"x"}
    vocabulary = replace(
        vocabulary_of(tokenizer), token_bytes=lambda i: lies.get(i, tokenizer.token_bytes(i))
    )
    grammar = Grammars(lambda: vocabulary).compile(GrammarSpec(GrammarKind.REGEX, "[ab]"), True)
    assert allowed(grammar.start()) == {ord("a")}


def test_a_refused_token_and_what_gets_too_complex_fail_closed() -> None:
    constraint = schema("bytes", PERSON).start()
    with pytest.raises(InvalidRequest, match="response_format: the answer cannot go on"):
        constraint.append([ord("x")])
    with pytest.raises(InvalidRequest):
        constraint.mask()
    complex = compiled("demo", GrammarKind.REGEX, "(a?){500}a{500}").start()
    with pytest.raises(InvalidRequest, match="cannot go on"):
        for _ in range(50):
            constraint = complex.fork()
            complex.append([min(allowed(constraint))])


def test_masks_are_as_wide_as_the_models_logits() -> None:
    tokenizer = tokenizer_of("bytes")
    for size in (tokenizer.num_tokens, 300, 320, 1000):
        grammars = Grammars(lambda size=size: vocabulary_of(tokenizer, size))
        constraint = grammars.compile(GrammarSpec(GrammarKind.JSON_SCHEMA, "{}"), True).start()
        mask = np.frombuffer(constraint.mask(), "<u4")
        assert len(mask) == -(-size // 32)
        assert max(allowed(constraint)) < 256


def test_what_is_compiled_is_kept_for_all_who_ask_for_the_same() -> None:
    grammars = grammars_of("bytes")
    spec = GrammarSpec(GrammarKind.REGEX, "[0-9]+")
    found = grammars.compile(spec, True)
    assert grammars.compile(replace(spec), True) is found is grammars.known(spec, has_prefix=True)
    assert grammars.known(spec, has_prefix=False) is None
    for number in range(70):
        grammars.compile(GrammarSpec(GrammarKind.REGEX, f"a{{{number + 1}}}"), True)
    assert grammars.known(spec, has_prefix=True) is None


def test_an_answer_goes_on_with_its_own_version_alone() -> None:
    grammars, spec = grammars_of("bytes"), GrammarSpec(GrammarKind.REGEX, "[0-9]+")
    mask = grammars.compile(spec, True).start().mask()
    assert grammars.later(spec, True, version_of(spec.kind)).start().mask() == mask
    with pytest.raises(InternalError, match=r"begun with the grammars of llguidance@0\.1"):
        grammars.later(spec, True, "llguidance@0.1").start()
