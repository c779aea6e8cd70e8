"""What models write of calls in each format: taken by the grammar, and read by the cursor."""

import json
import random
from dataclasses import asdict
from typing import Any

import pytest
from tests.doubles.call_formats import FORMATS, QUOTES, Call, Piece, written
from vocabularies import allowed, grammars_of, tokenizer_of

from llamastream.errors import InvalidRequest
from llamastream.generation.log import joined_parts
from llamastream.grammar import Compiled
from llamastream.text import CallReader
from llamastream.tools import CallRules, CallSyntax, Tool, ToolFormat
from llamastream.types import GrammarKind, GrammarSpec, ToolCall

PLACE = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "metric": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "unit": {"enum": ["it's", "F"]},
        "near": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "at": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
            "required": ["x"],
            "additionalProperties": False,
        },
        "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
    },
    "required": ["city"],
}
TOOLS = (Tool("weather", "How it is.", json.dumps(PLACE)), Tool("now"), Tool("now2"))
FULL = {
    "city": 'São "Paulo" it\'s \\ </tool_call> [x] {y} \n',
    "days": -3,
    "metric": True,
    "tags": ["a, b)", "]"],
    "unit": "it's",
    "near": None,
    "at": {"x": 1.5},
}
ANSWERS: list[list[Call]] = [
    [],
    [("now", {})],
    [("now2", {})],
    [("weather", {"city": ""})],
    [("weather", FULL)],
    [("weather", {"city": "x", "code": "ABC"})],
    [("now", {}), ("weather", FULL), ("now2", {})],
]


def rules_of(format: ToolFormat, tools: tuple[Tool, ...], **options: bool) -> CallRules:
    raw = tuple(tool.name for tool in tools if tool.input_syntax is not None)
    return CallRules(format, tuple(tool.name for tool in tools), raw, **options)


def compiled(
    name: str,
    format: ToolFormat,
    tools: tuple[Tool, ...] = TOOLS,
    *,
    is_required: bool = False,
    takes_several: bool | None = None,
    answer: GrammarSpec | None = None,
) -> Compiled:
    several = format.takes_several if takes_several is None else takes_several
    asked = {
        "rules": rules_of(format, tools, has_format=answer is not None).to_json(),
        "tools": list(map(asdict, tools)),
        "is_required": is_required,
        "takes_several": several,
        "answer": answer and asdict(answer),
    }
    spec = GrammarSpec(GrammarKind.CALLS, json.dumps(asked), param="tools")
    return grammars_of(name).compile(spec, True)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [i for piece in pieces for i in ([piece] if isinstance(piece, int) else piece.encode())]


def num_taken(grammar: Compiled, ids: list[int]) -> tuple[int, bool]:
    """How many may be drawn one after the other, and whether the answer may end there."""
    constraint = grammar.start()
    for number, token_id in enumerate(ids):
        if token_id not in allowed(constraint):
            return number, False
        constraint.append([token_id])
    return len(ids), set(tokenizer_of("bytes").eos_token_ids) <= allowed(constraint)


def read(rules: CallRules, pieces: list[Piece]) -> tuple[str, tuple[ToolCall, ...]]:
    reader = CallReader(rules, "call_{}".format)
    text, parts = "", list[ToolCall]()
    for piece in pieces:
        is_token = isinstance(piece, int)
        text += reader.add("" if is_token else piece, piece if is_token else -1)  # type: ignore[arg-type]
        parts += reader.take()
    text += reader.finish()
    return text, joined_parts(parts)  # type: ignore[return-value]


def cut(pieces: list[Piece], rng: random.Random, most: int) -> list[Piece]:
    made: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, int):
            made.append(piece)
            continue
        place = 0
        while place < len(piece):
            size = rng.randint(1, most)
            made.append(piece[place : place + size])
            place += size
    return made


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("calls", ANSWERS, ids=lambda calls: str(len(calls)))
def test_calls_are_taken_and_read_the_same_for_every_cutting(name: str, calls: list[Call]) -> None:
    format = FORMATS[name]
    if format.syntax is CallSyntax.PYTHONIC:  # such a text is JSON's there, in double quotes
        calls = [(n, {k: v for k, v in given.items() if k != "code"}) for n, given in calls]
    calls = calls if format.takes_several else calls[:1]
    pieces = written(format, "I look.", calls)
    said = "I look." if "I look." in pieces else ""
    ids = ids_of(pieces)
    assert num_taken(compiled("bytes", format), ids) == (len(ids), True)
    rules = rules_of(format, TOOLS)
    expected = [(n, given) for n, given in calls]
    rng = random.Random(1)
    for most in (1, 2, 3, 9, 10_000):
        for _ in range(3):
            text, found = read(rules, cut(pieces, rng, most))
            assert (text, [(c.name, json.loads(c.arguments)) for c in found]) == (said, expected)
            assert [c.id for c in found] == [f"call_{k}" for k in range(len(calls))]


@pytest.mark.parametrize("name", FORMATS)
def test_unknown_names_and_wrong_types_cannot_be_drawn(name: str) -> None:
    format, wrong = FORMATS[name], [("city", 5), ("days", "x"), ("metric", 1), ("code", "abc")]
    grammar = compiled("bytes", format)
    for key, value in wrong:
        good = ids_of(written(format, "", [("weather", {"city": "x", "days": 1})]))
        ids = ids_of(written(format, "", [("weather", {"city": "x"} | {key: value})]))
        assert num_taken(grammar, good)[1]
        assert num_taken(grammar, ids)[0] < len(ids)
    ids = ids_of(written(format, "", [("forecast", {})]))
    assert num_taken(grammar, ids)[0] < len(ids)
    ids = ids_of(written(format, "", [("weather", {})]))
    assert num_taken(grammar, ids)[0] < len(ids)


@pytest.mark.parametrize("name", FORMATS)
def test_an_object_inside_may_have_keys_that_nobody_named(name: str) -> None:
    format = FORMATS[name]
    near = {"type": "object", "properties": {"x": {"type": "integer"}, "it's": {}}}
    numbers = near | {"additionalProperties": {"type": "integer"}}
    properties = {"any": near, "numbers": numbers, "none": near | {"additionalProperties": False}}
    tool = Tool("f", None, json.dumps({"type": "object", "properties": properties}))
    grammar, rules = compiled("bytes", format, (tool,)), rules_of(format, (tool,))
    good = {"x": 1}
    for given, is_allowed in (
        ({"any": good | {"z/y": "a", "|": None}}, True),
        ({"any": {"z": [1]}}, True),
        ({"any": {"z": 1, "x": 2}}, False),  # in another order
        ({"any": {"x": "a"}}, False),
        ({"numbers": {"z": 1}}, True),
        ({"numbers": good | {"z": "a"}}, False),
        ({"none": good | {"z": 1}}, False),
        ({"none": good}, True),
    ):
        for quote in QUOTES:
            pieces = written(format, "", [("f", given)], quote)
            ids = ids_of(pieces)
            num, is_end = num_taken(grammar, ids)
            assert (num == len(ids) and is_end) == is_allowed, given
            if is_allowed:
                (call,) = read(rules, pieces)[1]
                assert json.loads(call.arguments) == given


@pytest.mark.parametrize("name", FORMATS)
def test_required_and_once(name: str) -> None:
    format = FORMATS[name]
    required = compiled("bytes", format, is_required=True, takes_several=False)
    assert num_taken(required, ids_of(["I look."]))[0] == 0
    assert not num_taken(required, [])[1]
    one = ids_of(written(format, "", [("now", {})]))
    assert num_taken(required, one) == (len(one), True)
    if format.takes_several:
        two = ids_of(written(format, "", [("now", {}), ("now", {})]))
        assert num_taken(required, two)[0] < len(two)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"llama"}))
def test_a_format_or_calls(name: str) -> None:
    format = FORMATS[name]
    schema = '{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}'
    answer = GrammarSpec(GrammarKind.JSON_SCHEMA, schema)
    grammar = compiled("bytes", format, answer=answer)
    said = '{"name":"<tool_call> [TOOL_CALLS] [now()]"}'
    assert num_taken(grammar, ids_of([said])) == (len(said), True)
    assert num_taken(grammar, ids_of(["I look."]))[0] == 0
    rules = rules_of(format, TOOLS, has_format=True)
    assert read(rules, [*said]) == (said, ())
    call = written(format, "", [("weather", FULL)])
    assert num_taken(grammar, ids_of(call))[1]
    text, (found,) = read(rules, call)
    assert (text, json.loads(found.arguments)) == ("", FULL)


@pytest.mark.parametrize("name", FORMATS)
def test_text_is_free_and_never_a_call(name: str) -> None:
    format = FORMATS[name]
    grammar, rules = compiled("bytes", format), rules_of(format, TOOLS)
    for said in (
        '{"nam',
        '{"names": 1}',
        '  {"type": "function"}',
        "[1, 2]",
        "[now](x)",
        "[no",
        "a < b <tool <tool_cal",
        "[TOOL [x]",
        "  \n",
        'I say {"name": "now"} and [now()]' if "llama" in name or "pyth" in name else "x",
    ):
        assert num_taken(grammar, ids_of([said])) == (len(said), True), said
        for pieces in ([said], list(said)):
            assert read(rules, pieces) == (said, ()), said


@pytest.mark.parametrize("name", FORMATS)
def test_a_text_is_what_a_custom_tool_is_called_with(name: str) -> None:
    format = FORMATS[name]
    tools = (*TOOLS, Tool("patch", input_syntax="lark", definition='start: ("+" /[^\\n]*/ "\\n")+'))
    text = "+a</tool_call>\n+[TOOL_CALLS])}\n"
    head: dict[Any, list[Piece]] = {
        "llama": ['{"name": "patch"}\n'],
        "pythonic": ["[patch(\n"],
        "hermes": ['\n{"name": "patch"}\n'],
        "generic": ['\n{"name": "patch"}\n'],
        "mistral": [' [{"name": "patch"}\n'],
    }
    begin: list[Piece] = [format.begin if format.begin is not None else format.mark or ""]
    if name == "mistral-tagged":
        pieces: list[Piece] = [*begin, "patch", 256, "\n", text]
    else:
        pieces = [*begin, *head[format.syntax.value], text]
    ids = ids_of(pieces)
    assert num_taken(compiled("bytes", format, tools), ids) == (len(ids), True)
    said, (call,) = read(rules_of(format, tools), cut(pieces, random.Random(2), 4))
    assert (said, call.name, call.arguments, call.kind) == ("", "patch", text, "custom")


def test_a_grammar_of_patches_as_coding_agents_send_it() -> None:
    patches = """
        start: begin change+ end
        begin: "*** Begin Patch" LF
        end: "*** End Patch" LF?
        change: add | remove | update
        add: "*** Add File: " name LF ("+" /(.*)/ LF)+
        remove: "*** Delete File: " name LF
        update: "*** Update File: " name LF move? part+
        move: "*** Move to: " name LF
        part: ("@@" | "@@ " /(.+)/) LF (("+" | "-" | " ") /(.*)/ LF)+
        name: /(.+)/
        %import common.LF
    """
    tools = (*TOOLS, Tool("patch", input_syntax="lark", definition=patches))
    grammar = compiled("bytes", FORMATS["hermes"], tools)
    head = '<tool_call>\n{"name": "patch"}\n'
    good = "*** Begin Patch\n*** Update File: a b.py\n@@ f\n-  x\n+  </tool_call>\n*** End Patch"
    ids = ids_of([head, good])
    assert num_taken(grammar, ids) == (len(ids), True)
    wrong = head + good.replace("-  x", "*  x")
    assert num_taken(grammar, ids_of([wrong]))[0] == wrong.index("*  x")


def test_what_cannot_be_enforced_is_refused_or_told() -> None:
    schema = json.dumps(PLACE | {"not": {"required": ["days"]}})
    strict = (Tool("weather", None, schema, strict=True, param="tools[0].function.parameters"),)
    with pytest.raises(InvalidRequest, match=r"tools\[0\].function.parameters cannot be enforced"):
        compiled("bytes", FORMATS["hermes"], strict)
    lenient = compiled("bytes", FORMATS["hermes"], (Tool("weather", None, schema), TOOLS[1]))
    texts = '{"city": ""}', '{"city": "", "days": 1}'
    good, bad = (ToolCall("a", "weather", text) for text in texts)
    assert lenient.warnings("", [good]) == ('Not enforced: unsupported keywords ["not"]',)
    assert "do not fit the schema" in lenient.warnings("", [bad])[1]
    assert lenient.warnings("", [ToolCall("b", "now", "{}")]) == ()


@pytest.mark.parametrize("name", ["llama", "pythonic", "hermes", "generic"])
def test_texts_that_begin_with_an_unseen_space(name: str) -> None:
    """SentencePiece: the first token of an answer has a space that nobody sees."""
    tokenizer, format = tokenizer_of("llama2"), FORMATS[name]
    for said in (*written(format, "", [("weather", FULL)]), "I look."):
        constraint = compiled("llama2", format).start()
        ids = tokenizer.encode("".join(map(str, written(format, "", [("now", {})]))), add_bos=False)
        for token_id in ids:
            assert token_id in allowed(constraint), said
            constraint.append([token_id])
        assert 2 in allowed(constraint)
