"""From what a request asks for to a grammar that can be started, once for all who ask for the same.

Compiling takes milliseconds, for a large schema some hundred; none of it on the event loop. The
invariant: what was asked for is enforced, or refused, or named in `unenforced` and checked at the
end; nothing is left out in silence.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from llamastream.errors import InternalError, InvalidRequest
from llamastream.grammar.checking import Checker
from llamastream.grammar.constraint import MatcherConstraint, reason_of
from llamastream.grammar.limits import (
    MAX_LARK,
    check_choices,
    check_pattern,
    check_size,
    read_schema,
)
from llamastream.grammar.vocabulary import Vocabulary
from llamastream.types import GrammarKind, GrammarSpec

Json = dict[str, Any]
VERSION: str = llguidance.get_version()
"""Another one may allow other tokens: what it began, no other can go on with."""
MAX_KEPT = 64
MAX_KEPT_BYTES = 4 * 2**20  # of their sources
# Counts and not times, so that what is too complex is so on every machine.
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=6000,
    max_grammar_size=100_000,
    step_max_items=50_000,
    step_lexer_fuel=100_000,
    initial_lexer_fuel=500_000,
    max_lexer_states=50_000,
)
# No white space that a model could go on with for ever; a schema's own options are not read.
JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
STRICT, LENIENT = {"lenient": False, "coerce_one_of": False}, {"lenient": True}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A grammar as types.Grammar. `unenforced`: what of a schema it does not see to, in words;
    `checker` then tells of a finished answer."""

    matcher: llguidance.LLMatcher  # before its first token
    vocabulary: Vocabulary
    has_prefix: bool  # it begins where a text of its own does
    param: str
    unenforced: tuple[str, ...] = ()
    checker: Checker | None = None

    def start(self) -> MatcherConstraint:
        return MatcherConstraint(
            self.matcher.deep_copy(), self.vocabulary, is_first=self.has_prefix, param=self.param
        )

    def warnings(self, text: str) -> tuple[str, ...]:
        """What is to be said of an answer that has come to its end."""
        if self.checker is None:
            return ()
        said = tuple(f"Not enforced: {reason}" for reason in self.unenforced)
        problem = self.checker.problem(text)
        return (
            said if problem is None else (*said, f"The answer does not fit the schema: {problem}")
        )


@dataclass(frozen=True, slots=True)
class Later:
    """A grammar that was compiled before, by whatever server began the answer: compiled again where
    it is started, which is not on the event loop."""

    spec: GrammarSpec
    has_prefix: bool
    version: str
    compile: Callable[[GrammarSpec, bool], Compiled]

    def start(self) -> MatcherConstraint:
        """Raises InternalError for another version's, and what compiling raises."""
        if self.version != VERSION:
            raise InternalError(
                f"The answer was begun with the grammars of {self.version}. This server has those "
                f"of {VERSION}, which cannot go on with it. Ask again."
            )
        return self.compile(self.spec, self.has_prefix).start()

    def warnings(self, text: str) -> tuple[str, ...]:
        """See `Compiled`. It was started, so it is known."""
        return self.compile(self.spec, self.has_prefix).warnings(text)


class Grammars:
    """Compiles and keeps what was compiled. Any thread may call; see `Vocabulary` for how long."""

    version = VERSION

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        """`vocabulary` is called once, at the first need."""
        self._make_vocabulary = vocabulary
        self._vocabulary: Vocabulary | None = None
        self._making = threading.Lock()
        self._lock = threading.Lock()  # of what is kept
        self._kept: OrderedDict[tuple[object, ...], Compiled] = OrderedDict()
        self._num_bytes = 0

    def known(self, spec: GrammarSpec, *, has_prefix: bool) -> Compiled | None:
        """What need not be compiled again."""
        with self._lock:
            key = _key(spec, has_prefix)
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def compile(self, spec: GrammarSpec, has_prefix: bool) -> Compiled:
        """`has_prefix`: the answer is a text of its own, whose first place may take a space off.

        Raises InvalidRequest, which names what cannot be enforced, or the limit.
        """
        found = self.known(spec, has_prefix=has_prefix)
        if found is None:
            found = _compile(spec, self.vocabulary(), has_prefix)
            self._keep(_key(spec, has_prefix), found)
        return found

    def later(self, spec: GrammarSpec, has_prefix: bool, version: str) -> Later:
        return Later(spec, has_prefix, version, self.compile)

    def vocabulary(self) -> Vocabulary:
        with self._making:
            if self._vocabulary is None:
                made = self._make_vocabulary()
                _ = made.first_ids, made.space_ids, made.stops  # by one thread
                self._vocabulary = made
            return self._vocabulary

    def _keep(self, key: tuple[object, ...], compiled: Compiled) -> None:
        with self._lock:
            if key not in self._kept:
                self._num_bytes += _size(key)
            self._kept[key] = compiled
            while len(self._kept) > MAX_KEPT or self._num_bytes > MAX_KEPT_BYTES:
                self._num_bytes -= _size(self._kept.popitem(last=False)[0])


def _key(spec: GrammarSpec, has_prefix: bool) -> tuple[object, ...]:
    return (spec, has_prefix)


def _size(key: tuple[object, ...]) -> int:
    spec = key[0]
    assert isinstance(spec, GrammarSpec)
    return len(spec.text)


def _compile(spec: GrammarSpec, vocabulary: Vocabulary, has_prefix: bool) -> Compiled:
    takes_space = has_prefix and vocabulary.strips_leading_space
    checker, unenforced = None, tuple[str, ...]()
    if spec.kind is GrammarKind.JSON_SCHEMA:
        schema = read_schema(spec.text, spec.param)
        matcher = _matcher(_of_schema(schema, STRICT), vocabulary, takes_space)
        if matcher.is_error() and not spec.strict:
            checker = Checker(schema, spec.param)
            matcher = _matcher(_of_schema(schema, LENIENT), vocabulary, takes_space)
            unenforced = tuple(map(reason_of, matcher.get_grammar_warnings()))
    else:
        matcher = _matcher(SOURCES[spec.kind](spec), vocabulary, takes_space)
    if matcher.is_error():
        raise _refusal(spec, matcher.get_error())
    probe = matcher.deep_copy()
    probe.compute_bitmask()  # only then it is known whether anything may come at all
    if probe.is_stopped() and not probe.is_accepting():
        raise _refusal(spec, reason_of(probe.get_error()) or "it allows no answer at all")
    return Compiled(matcher, vocabulary, has_prefix, spec.param, unenforced, checker)


def _matcher(body: Json, vocabulary: Vocabulary, takes_space: bool) -> llguidance.LLMatcher:
    """`takes_space`: of a vocabulary whose texts begin with a space that nobody sees. A body that
    may begin with a space itself gets one more, always: else who took which were not known."""
    if not takes_space:
        return _parse([body], vocabulary)
    plain = _parse([body], vocabulary)
    if plain.is_error():
        return plain
    words = np.frombuffer(plain.compute_bitmask(), "<u4")[: vocabulary.num_words]
    is_own = (words & vocabulary.text_ids & vocabulary.space_ids).any()
    space = '" "' if is_own else '" "?'
    return _parse([{"lark_grammar": f"start: {space} @body"}, body | {"name": "body"}], vocabulary)


def _parse(grammars: list[Json], vocabulary: Vocabulary) -> llguidance.LLMatcher:
    text = json.dumps({"grammars": grammars})
    return llguidance.LLMatcher(vocabulary.parser, text, log_level=0, limits=LIMITS)


def _of_schema(schema: Any, options: Json) -> Json:
    schema = {} if schema is True else schema
    if isinstance(schema, dict):
        schema = schema | {"x-guidance": JSON_OPTIONS | options}
    return {"json_schema": schema}


def _of_regex(spec: GrammarSpec) -> Json:
    check_pattern(spec.text, spec.param)
    pattern = spec.text.removeprefix("^")
    if pattern.endswith("$") and not pattern.endswith("\\$"):
        pattern = pattern[:-1]
    grammar = json.loads(llguidance.LLMatcher.grammar_from_regex(pattern))
    return {"lark_grammar": grammar["grammars"][0]["lark_grammar"]}


def _of_choices(spec: GrammarSpec) -> Json:
    choices: list[str] = json.loads(spec.text)
    check_choices(choices, spec.param)
    return {"lark_grammar": "start: " + " | ".join(map(_quote, dict.fromkeys(choices)))}


def _of_lark(spec: GrammarSpec) -> Json:
    """Lark, or llama.cpp's GBNF, whose rules are written with `::=`."""
    check_size(spec.text, MAX_LARK, spec.param)
    if "::=" not in spec.text:
        return {"lark_grammar": spec.text}
    try:
        return {"lark_grammar": gbnf_to_lark(spec.text)}
    except (GbnfToLarkError, RecursionError) as error:
        raise _refusal(spec, str(error)) from error


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


SOURCES: dict[GrammarKind, Callable[[GrammarSpec], Json]] = {
    GrammarKind.REGEX: _of_regex,
    GrammarKind.CHOICE: _of_choices,
    GrammarKind.LARK: _of_lark,
}


def _refusal(spec: GrammarSpec, error: str) -> InvalidRequest:
    way_out = "Leave that out"
    if spec.kind is GrammarKind.JSON_SCHEMA and spec.strict:
        way_out += ", or send what is not strict: it is then checked at the end"
    return InvalidRequest(
        f"{spec.param} cannot be enforced: {reason_of(error)}. {way_out}.", param=spec.param
    )
