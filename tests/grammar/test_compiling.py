"""What is enforced, refused by name, or named and checked at the end; and what it may cost."""

import json
from collections import Counter

import pytest
from vocabularies import SHARED, compiled, grammars_of, schema, takes, tokenizer_of

from llamastream.errors import InvalidRequest
from llamastream.grammar import Compiled
from llamastream.grammar.limits import num_repeats
from llamastream.types import GrammarKind, GrammarSpec

NUM_SCHEMAS = 60  # of 625: bench/structured_output.py takes all


def published() -> list[dict]:
    file = SHARED / "json_schemas.jsonl"
    if not file.exists():
        pytest.skip("../shared/data/json_schemas.jsonl is missing")
    lines = file.read_text().splitlines()
    return [json.loads(line) for line in lines[:: len(lines) // NUM_SCHEMAS]]


def test_published_schemas_are_enforced_or_refused_by_keyword() -> None:
    tokenizer, counts = tokenizer_of("bytes"), Counter()
    for case in published():
        try:
            grammar = schema("bytes", case["schema"])
        except InvalidRequest as error:
            assert "cannot be enforced: " in error.message
            counts["refused"] += 1
            continue
        for instance in case["tests"]:
            text = json.dumps(instance["data"], separators=(",", ":"), ensure_ascii=False)
            constraint = grammar.start()
            ids = tokenizer.encode(text)
            accepted = constraint.num_allowed(ids) == len(ids) and takes(grammar, tokenizer, ids)
            assert accepted is instance["valid"], (case["name"], text)
            counts[instance["valid"]] += 1
    assert counts[True] > 30 and counts[False] > 30 and counts["refused"] < NUM_SCHEMAS // 3


def test_published_schemas_that_are_not_strict_are_checked_at_the_end() -> None:
    checked = 0
    for case in published():
        try:
            grammar = schema("bytes", case["schema"], strict=False)
        except InvalidRequest:
            continue
        if not grammar.of_text.unenforced:
            assert grammar.warnings("{}") == ()
            continue
        for instance in case["tests"]:
            warnings = grammar.warnings(json.dumps(instance["data"]))
            assert warnings[0].startswith("Not enforced: ")
            assert any("does not fit" in said for said in warnings) is not instance["valid"]
            checked += 1
    assert checked


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"not": {"type": "string"}}, r'unsupported keywords \["not"\]'),
        ({"if": {}, "then": {}}, r'unsupported keywords \["if", "then"\]'),
        ({"type": "string", "format": "byte"}, "Unknown format: byte"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"oneOf": [{"type": "string"}, {"minLength": 3}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "http://127.0.0.1/x"}, "http://127.0.0.1/x"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "[Uu]nsatisfiable"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(keywords: dict, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^response_format cannot be enforced: .*{reason}"):
        schema("bytes", keywords)


def test_what_is_not_strict_is_named_and_checked() -> None:
    inner = {"type": "string", "not": {"const": "x"}}
    wanted = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    grammar = schema("bytes", wanted, strict=False)
    assert grammar.of_text.unenforced == ('unsupported keywords ["not"]',)
    named = 'Not enforced: unsupported keywords ["not"]'
    assert grammar.warnings('{"a":"y"}') == (named,)
    assert grammar.warnings('{"a":"x"}') == (
        named,
        "The answer does not fit the schema: '/a' breaks 'properties/a/not'",
    )
    assert grammar.warnings('{"a":"x')[1].endswith("it is no JSON, having ended early")
    assert schema("bytes", {"type": "integer"}, strict=False).warnings("x") == ()
    with pytest.raises(InvalidRequest, match="not part of the schema"):
        schema("bytes", {"not": {"$ref": "http://127.0.0.1/x"}}, strict=False)


def test_a_schemas_own_options_for_the_parser_are_not_read() -> None:
    own = {"type": "object", "x-guidance": {"lenient": True, "whitespace_flexible": True}}
    assert not takes(schema("bytes", own), tokenizer_of("bytes"), list(b"{ }"))
    with pytest.raises(InvalidRequest, match="not"):
        schema("bytes", own | {"not": {}})


def test_keys_come_in_the_schemas_order() -> None:
    names = ["zeta", "alpha", "mid"]
    wanted = {"type": "object", "properties": {n: {"const": 1} for n in names}, "required": names}
    wanted |= {"additionalProperties": False}
    takes_ids = takes(
        schema("bytes", wanted), tokenizer_of("bytes"), list(b'{"zeta":1,"alpha":1,"mid":1}')
    )
    assert takes_ids


@pytest.mark.parametrize(
    ("kind", "text", "yes", "no"),
    [
        (GrammarKind.REGEX, r"^\d{3}-[a-z]+$", ["123-ab"], ["12-ab", "123-"]),
        (GrammarKind.REGEX, r"a\$", ["a$"], ["a"]),
        (GrammarKind.CHOICE, ["yes", 'q"\\\n é', "no"], ["yes", 'q"\\\n é'], ["ye", "yesno", ""]),
        (GrammarKind.LARK, 'start: "a" start "b" | "c"', ["aacbb"], ["aacb"]),
        (GrammarKind.LARK, 'root ::= "x" digit+\ndigit ::= [0-9]', ["x12"], ["x", "y1"]),
    ],
)
def test_other_grammars(kind: GrammarKind, text: object, yes: list[str], no: list[str]) -> None:
    grammar = compiled("bytes", kind, text)
    for answer in yes + no:
        assert takes(grammar, tokenizer_of("bytes"), list(answer.encode())) is (answer in yes)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (GrammarKind.REGEX, "a("),
        (GrammarKind.REGEX, r"(a)\1"),
        (GrammarKind.LARK, "start: missing"),
        (GrammarKind.LARK, "begin: /a/"),
        (GrammarKind.LARK, "root ::= ("),
        (GrammarKind.LARK, "start: start"),
        (GrammarKind.JSON_SCHEMA, "{"),
        (GrammarKind.JSON_SCHEMA, "[]"),
        (GrammarKind.JSON_SCHEMA, "false"),
        (GrammarKind.JSON_SCHEMA, '{"const":NaN}'),
        (GrammarKind.JSON_SCHEMA, '{"type":"strin"}'),
        (GrammarKind.JSON_SCHEMA, '{"properties":[]}'),
    ],
)
def test_what_is_no_grammar_is_refused(kind: GrammarKind, text: str) -> None:
    with pytest.raises(InvalidRequest, match="guided"):
        compiled("bytes", kind, text, param="guided")


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("abc", 1),
        ("a{3}b{4}", 4),
        ("(a{3}b{4}){5}", 20),
        ("((a|b{2,7}){3}c){10}", 210),
        (r"a\{3}[{}]{2}\(", 2),
        ("[]a{9}]{3}", 3),
        ("(x{2})?{3}", 6),
        ("a{,5}b{6,}", 6),
        ("(((", 1),
    ],
)
def test_counts_inside_counts_are_multiplied(pattern: str, count: int) -> None:
    assert num_repeats(pattern) == count


def nested(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (json.dumps({"description": "x" * 300_000}), r"<= 262144 bytes long. Given: 3000"),
        (nested(100), r"<= 100 depth of nesting in all. Given: 101"),
        (nested(20_000), r"<= 100 depth"),
        (
            json.dumps({"properties": {str(k): {} for k in range(1001)}}),
            "<= 1000 properties .*1001",
        ),
        (json.dumps({"enum": list(range(10_001))}), "<= 10000 enum values .*10001"),
        (json.dumps({"pattern": "a" * 1025}), "pattern must be <= 1024 characters long. .*1025"),
        (json.dumps({"pattern": "(a{1000}){1000}"}), "pattern must repeat .*<= 10000 .*1000000"),
        (json.dumps({"patternProperties": {"b" * 1025: {}}}), "patternProperties must be <= 1024"),
    ],
)
def test_limits_are_looked_at_first_and_named(text: str, limit: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^response_format.*{limit}"):
        schema("bytes", text)


def any_of(depth: int, *, twice: bool) -> dict:
    inner: dict = {"type": "string"}
    for k in range(depth):
        parts = [inner, inner if twice else {"type": "integer"}]
        inner = {"anyOf": [{"type": "object", "properties": {f"p{k}": part}} for part in parts]}
    return inner


def references(count: int) -> dict:
    names = [f"#/$defs/d{k + 1}" for k in range(count)]
    defs: dict = {f"d{k}": {"anyOf": [{"$ref": n}, {"$ref": n}]} for k, n in enumerate(names)}
    return {"$ref": "#/$defs/d0", "$defs": defs | {f"d{count}": {"type": "string"}}}


HOSTILE: dict[str, tuple[GrammarKind, object]] = {
    "5,000 properties": (
        GrammarKind.JSON_SCHEMA,
        {"properties": {f"property_{k}": {"type": "string"} for k in range(5000)}},
    ),
    "1,000 optional properties": (
        GrammarKind.JSON_SCHEMA,
        {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(1000)}},
    ),
    "anyOf nested 12 deep": (GrammarKind.JSON_SCHEMA, any_of(12, twice=True)),
    "anyOf nested 18 deep": (GrammarKind.JSON_SCHEMA, any_of(18, twice=True)),
    "anyOf nested in one": (GrammarKind.JSON_SCHEMA, any_of(18, twice=False)),
    "an enum of 100,000": (GrammarKind.JSON_SCHEMA, {"enum": [f"v {k}" for k in range(100_000)]}),
    "an enum of 10,000": (GrammarKind.JSON_SCHEMA, {"enum": [f"v {k}" for k in range(10_000)]}),
    ".*a.{24}": (GrammarKind.REGEX, ".*a.{24}"),
    "(a?){500}a{500}": (GrammarKind.REGEX, "(a?){500}a{500}"),
    "counts inside counts": (GrammarKind.REGEX, "((((a|b){0,30}){0,30}){0,30}){0,30}"),
    "references that double": (GrammarKind.JSON_SCHEMA, references(18)),
    "a reference to itself": (GrammarKind.JSON_SCHEMA, {"$ref": "#"}),
    "a billion items": (
        GrammarKind.JSON_SCHEMA,
        {"type": "array", "items": {"type": "string"}, "minItems": 10**9, "maxItems": 10**9},
    ),
    "a multiple of a large prime": (
        GrammarKind.JSON_SCHEMA,
        {"type": "integer", "multipleOf": 999_999_937},
    ),
    "all of many": (
        GrammarKind.JSON_SCHEMA,
        {"allOf": [{"properties": {f"a{k}": {"type": "string"}}} for k in range(400)]},
    ),
    "a rule of itself": (GrammarKind.LARK, 'start: start "a" | start start | "b"'),
}


def first_masks(grammar: Compiled, count: int = 8) -> None:
    constraint = grammar.start()
    stops = set(grammar.vocabulary.stop_ids)
    for _ in range(count):
        mask = int.from_bytes(constraint.mask(), "little")
        found = [i for i in range(mask.bit_length()) if mask >> i & 1 and i not in stops]
        if not found:
            return
        constraint.append([found[len(found) // 2]])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_refused_or_answered(name: str) -> None:
    """How fast is measured elsewhere; here that they come to an end at all: without a limit some
    took minutes."""
    kind, text = HOSTILE[name]
    try:
        first_masks(compiled("bytes", kind, text))
    except InvalidRequest as error:
        assert error.param in ("response_format",)


def test_a_compiled_grammar_is_asked_for_by_its_source() -> None:
    one = GrammarSpec(GrammarKind.JSON_SCHEMA, "{}", param="guided_json")
    other = GrammarSpec(GrammarKind.JSON_SCHEMA, "{}", param="response_format")
    grammars = grammars_of("bytes")
    assert grammars.compile(one, True).param == "guided_json"
    assert grammars.compile(other, True).param == "response_format"
