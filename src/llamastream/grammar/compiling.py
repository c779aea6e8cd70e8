"""From what a request asks for to a grammar that can be started, once for all who ask for the same.

Compiling takes milliseconds, for a large schema some hundred; none of it on the event loop. The
invariant: what was asked for is enforced, or refused, or named in `unenforced` and checked at the
end; nothing is left out in silence.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from llamastream.errors import InternalError, InvalidRequest
from llamastream.grammar.calls import VERSION as CALLS_VERSION
from llamastream.grammar.calls import Asked, CallGrammar, parameters_of
from llamastream.grammar.checking import Checker
from llamastream.grammar.constraint import MatcherConstraint, reason_of
from llamastream.grammar.limits import (
    MAX_LARK,
    check_choices,
    check_pattern,
    check_size,
    read_schema,
)
from llamastream.grammar.spelling import Json, of_schema, quote
from llamastream.grammar.vocabulary import Mask, Vocabulary
from llamastream.tools import Tool
from llamastream.types import GrammarKind, GrammarSpec, ToolCall

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


@dataclass(frozen=True, slots=True)
class Checks:
    """`unenforced`: what of a schema its grammar does not see to, in words; `checker` then tells of
    a finished text."""

    unenforced: tuple[str, ...] = ()
    checker: Checker | None = None

    def warnings(self, text: str, what: str) -> tuple[str, ...]:
        if self.checker is None:
            return ()
        said = tuple(f"Not enforced: {reason}" for reason in self.unenforced)
        problem = self.checker.problem(text)
        return said if problem is None else (*said, f"{what} the schema: {problem}")


@dataclass(frozen=True, slots=True)
class Compiled:
    """A grammar as types.Grammar."""

    matcher: llguidance.LLMatcher  # before its first token
    vocabulary: Vocabulary
    has_prefix: bool  # it begins where a text of its own does
    param: str
    of_text: Checks
    body: Json  # as the parser was given it
    of_calls: Mapping[str, Checks] = field(default_factory=dict)  # by tool
    triggers: Mask | None = None  # control tokens that it may use

    def start(self) -> MatcherConstraint:
        return MatcherConstraint(
            self.matcher.deep_copy(),
            self.vocabulary,
            is_first=self.has_prefix,
            param=self.param,
            triggers=self.triggers,
        )

    def warnings(self, text: str, calls: Sequence[ToolCall] = ()) -> tuple[str, ...]:
        """What is to be said of an answer that has come to its end."""
        found = [
            warning
            for call in calls
            if call.name in self.of_calls
            for warning in self.of_calls[call.name].warnings(
                call.arguments, f"The arguments of {call.name} do not fit"
            )
        ]
        if found or calls:
            return tuple(found)
        return self.of_text.warnings(text, "The answer does not fit")


@dataclass(frozen=True, slots=True)
class Later:
    """A grammar that was compiled before, by whatever server began the answer: compiled again where
    it is started, which is not on the event loop."""

    spec: GrammarSpec
    has_prefix: bool
    version: str
    compile: Callable[[GrammarSpec, bool], Compiled]

    @property
    def param(self) -> str:
        return self.spec.param

    def start(self) -> MatcherConstraint:
        """Raises InternalError for another version's, and what compiling raises."""
        if self.version != (ours := version_of(self.spec.kind)):
            raise InternalError(
                f"The answer was begun with the grammars of {self.version}. This server has those "
                f"of {ours}, which cannot go on with it. Ask again."
            )
        return self.compile(self.spec, self.has_prefix).start()

    def warnings(self, text: str, calls: Sequence[ToolCall] = ()) -> tuple[str, ...]:
        """See `Compiled`. It was started, so it is known."""
        return self.compile(self.spec, self.has_prefix).warnings(text, calls)


def version_of(kind: GrammarKind) -> str:
    """Another one may allow other tokens: what it began, no other can go on with."""
    parser: str = llguidance.get_version()
    return f"{parser}-calls{CALLS_VERSION}" if kind is GrammarKind.CALLS else parser


class Grammars:
    """Compiles and keeps what was compiled. Any thread may call; see `Vocabulary` for how long."""

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
    if spec.kind is GrammarKind.CALLS:
        found = _of_calls(Asked.read(spec.text), vocabulary, takes_space)
    else:
        found = _enforced(spec, vocabulary, takes_space)
    probe = found.matcher.deep_copy()
    probe.compute_bitmask()  # only then it is known whether anything may come at all
    if probe.is_stopped() and not probe.is_accepting():
        raise _refusal(spec, reason_of(probe.get_error()) or "it allows no answer at all")
    return replace(found, has_prefix=has_prefix, param=spec.param)


def _enforced(spec: GrammarSpec, vocabulary: Vocabulary, takes_space: bool) -> Compiled:
    """What is asked for, or as much of it as can be where that is enough."""
    body = _body(spec)
    matcher = _matcher([body], vocabulary, takes_space)
    checker, unenforced = None, tuple[str, ...]()
    if matcher.is_error() and spec.kind is GrammarKind.JSON_SCHEMA and not spec.strict:
        checker = Checker(read_schema(spec.text, spec.param), spec.param)
        body = _body(spec, is_lenient=True)
        matcher = _matcher([body], vocabulary, takes_space)
        unenforced = tuple(map(reason_of, matcher.get_grammar_warnings()))
    if matcher.is_error():
        raise _refusal(spec, matcher.get_error())
    return Compiled(matcher, vocabulary, False, spec.param, Checks(unenforced, checker), body)


def _of_calls(asked: Asked, vocabulary: Vocabulary, takes_space: bool) -> Compiled:
    """All at once; only where that fails, one by one to find out why."""
    inputs = {tool.name: spec for tool in asked.tools if (spec := _input_spec(tool)) is not None}
    grammar = {name: _body(spec) for name, spec in inputs.items()}
    answer = None if asked.answer is None else _body(asked.answer)
    bodies = CallGrammar(asked, grammar).bodies(answer)
    matcher = _matcher(bodies, vocabulary, takes_space)
    text, calls = Checks(), dict[str, Checks]()
    if matcher.is_error():
        for spec in inputs.values():
            _enforced(spec, vocabulary, False)
        if asked.answer is not None:
            found = _enforced(asked.answer, vocabulary, False)
            text, answer = found.of_text, found.body
        for tool in asked.tools:
            if tool.input_syntax is None and (checks := _checks(asked, tool, vocabulary)):
                calls[tool.name] = checks
        bodies = CallGrammar(asked, grammar, frozenset(calls)).bodies(answer)
        matcher = _matcher(bodies, vocabulary, takes_space)
    if matcher.is_error():
        raise InvalidRequest(
            f"tools cannot be enforced together: {reason_of(matcher.get_error())}. Offer fewer.",
            param="tools",
        )
    triggers = vocabulary.mask_of(asked.rules.format.tokens)
    return Compiled(matcher, vocabulary, False, "", text, {}, calls, triggers)


def _checks(asked: Asked, tool: Tool, vocabulary: Vocabulary) -> Checks | None:
    """What is to be checked of a tool's arguments: None where all of its schema is enforced."""
    alone = replace(asked, tools=(tool,), answer=None)
    if not _matcher(CallGrammar(alone, {}).bodies(None), vocabulary, False).is_error():
        return None
    spec = GrammarSpec(GrammarKind.JSON_SCHEMA, json.dumps(parameters_of(tool)), tool.strict)
    return _enforced(replace(spec, param=tool.param), vocabulary, False).of_text


def _input_spec(tool: Tool) -> GrammarSpec | None:
    kinds = {"lark": GrammarKind.LARK, "regex": GrammarKind.REGEX}
    kind = kinds.get(tool.input_syntax or "")
    return None if kind is None else GrammarSpec(kind, tool.definition, param=tool.param)


def _matcher(bodies: list[Json], vocabulary: Vocabulary, takes_space: bool) -> llguidance.LLMatcher:
    """Of the first, which may refer to the others. `takes_space`: of a vocabulary whose texts begin
    with a space that nobody sees. A body that may begin with a space itself gets one more, always:
    else who took which were not known."""
    if not takes_space:
        return _parse(bodies, vocabulary)
    plain = _parse(bodies, vocabulary)
    if plain.is_error():
        return plain
    words = np.frombuffer(plain.compute_bitmask(), "<u4")[: vocabulary.num_words]
    is_own = (words & vocabulary.text_ids & vocabulary.space_ids).any()
    space = '" "' if is_own else '" "?'
    first = {"lark_grammar": f"start: {space} @body"}
    return _parse([first, bodies[0] | {"name": "body"}, *bodies[1:]], vocabulary)


def _parse(grammars: list[Json], vocabulary: Vocabulary) -> llguidance.LLMatcher:
    text = json.dumps({"grammars": grammars})
    return llguidance.LLMatcher(vocabulary.parser, text, log_level=0, limits=LIMITS)


def _body(spec: GrammarSpec, *, is_lenient: bool = False) -> Json:
    """Raises InvalidRequest."""
    if spec.kind is GrammarKind.JSON_SCHEMA:
        return of_schema(read_schema(spec.text, spec.param), is_lenient=is_lenient)
    return SOURCES[spec.kind](spec)


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
    return {"lark_grammar": "start: " + " | ".join(map(quote, dict.fromkeys(choices)))}


def _of_lark(spec: GrammarSpec) -> Json:
    """Lark, or llama.cpp's GBNF, whose rules are written with `::=`."""
    check_size(spec.text, MAX_LARK, spec.param)
    if "::=" not in spec.text:
        return {"lark_grammar": spec.text}
    try:
        return {"lark_grammar": gbnf_to_lark(spec.text)}
    except (GbnfToLarkError, RecursionError) as error:
        raise _refusal(spec, str(error)) from error


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
