"""The Berkeley function calling leaderboard's toolsets and calls, through grammars and readers.

    python bench/tool_calls.py FOLDER [--every N] [--format NAME]

FOLDER: `bfcl_eval/data` of the wheel `bfcl-eval` (pip download --no-deps, unzip). Each question's
tools are compiled for each format; each of its right calls must be allowed token by token, and read
back equal, streamed in several cuttings. Ends with a line of JSON; exits with 1 if one is not.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.doubles.call_formats import FORMATS, QUOTES, Call, Piece, written

from llamastream.app import find_model
from llamastream.config import ModelSettings
from llamastream.errors import InvalidRequest
from llamastream.generation.grammars import vocabulary_of
from llamastream.generation.log import joined_parts
from llamastream.grammar import Grammars
from llamastream.text import CallReader, Tokenizer
from llamastream.tools import CallRules, CallSyntax, Tool, ToolFormat
from llamastream.types import Constraint, GrammarKind, GrammarSpec, ToolCall

KINDS = {"dict": "object", "float": "number", "tuple": "array", "any": None, "Boolean": "boolean"}
KINDS |= {"HashMap": "object", "String": "string", "ArrayList": "array", "Array": "array"}
NOT_ALLOWED = "not allowed"


class Question(NamedTuple):
    tools: list[Tool]
    calls: list[Call]


def schema_of(value: Any) -> Any:
    """With JSON Schema's own types."""
    if isinstance(value, list):
        return [schema_of(part) for part in value]
    if not isinstance(value, dict):
        return value
    found = {name: schema_of(part) for name, part in value.items()}
    kind = found.get("type")
    if isinstance(kind, str):
        kind = KINDS.get(kind, kind)
        known = {"object", "array", "string", "number", "integer", "boolean", "null"}
        found.pop("type")
        if kind in known:
            found["type"] = kind
    return found


def questions(folder: Path) -> Iterator[Question]:
    for answers in sorted(folder.glob("possible_answer/BFCL_v4_*.json")):
        asked = folder / answers.name
        if not any(
            kind in answers.name for kind in ("simple_python", "multiple", "parallel", "live")
        ):
            continue
        right = {e["id"]: e["ground_truth"] for e in map(json.loads, answers.open())}
        for entry in map(json.loads, asked.open()):
            tools, seen = [], set()
            for function in entry["function"]:
                if function["name"] not in seen:
                    seen.add(function["name"])
                    schema = json.dumps(schema_of(function["parameters"]))
                    tools.append(Tool(function["name"], function["description"], schema))
            schemas = {tool.name: json.loads(tool.parameters) for tool in tools}
            calls = []
            for call in right[entry["id"]]:
                ((name, given),) = call.items()
                calls.append((name, arguments(given, schemas[name])))
            is_right = all(fits(given, schemas[name]) for name, given in calls)
            yield Question(tools, calls if is_right else [])


def fits(given: dict[str, Any], schema: Any) -> bool:
    """Tools have no arguments but those they name."""
    is_valid: bool = jsonschema.Draft202012Validator(schema).is_valid(given)
    return is_valid and given.keys() <= schema["properties"].keys()


def arguments(allowed: dict[str, list[Any]], schema: Any) -> dict[str, Any]:
    """The first of what is right for each, in the schema's order; "" stands for leaving it out."""
    order = list(schema.get("properties", {}))
    chosen = {}
    for name in sorted(allowed, key=lambda n: order.index(n) if n in order else len(order)):
        part = schema["properties"].get(name, {})
        values = [typed(value, part) for value in allowed[name] if value != ""]
        if values and (name in schema.get("required", ()) or "" not in allowed[name]):
            is_valid = jsonschema.Draft202012Validator(part).is_valid
            chosen[name] = next(filter(is_valid, values), values[0])
    return chosen


def typed(value: Any, schema: Any) -> Any:
    """Values of objects are lists of what is right, too."""
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        found = {k: v[0] if isinstance(v, list) and v else v for k, v in value.items()}
        order = list(inner)
        keys = sorted(found, key=lambda k: order.index(k) if k in order else len(order))
        return {k: typed(found[k], inner.get(k, {})) for k in keys if found[k] != ""}
    if isinstance(value, list):
        return [typed(part, schema.get("items", {})) for part in value]
    return value


def spec_of(question: Question, format: ToolFormat) -> tuple[CallRules, GrammarSpec]:
    rules = CallRules(format, tuple(tool.name for tool in question.tools))
    asked = {
        "rules": rules.to_json(),
        "tools": list(map(asdict, question.tools)),
        "is_required": False,
        "takes_several": format.takes_several,
        "answer": None,
    }
    return rules, GrammarSpec(GrammarKind.CALLS, json.dumps(asked), param="tools")


def read(rules: CallRules, pieces: list[Piece]) -> list[tuple[str, Any]]:
    reader, parts = CallReader(rules, "call_{}".format), list[ToolCall]()
    for piece in pieces:
        if isinstance(piece, int):
            reader.add("", piece)
        else:
            reader.add(piece, -1)
        parts += reader.take()
    return [(c.name, c.arguments) for c in joined_parts(parts) if isinstance(c, ToolCall)]


def cuttings(
    pieces: list[Piece], tokenizer: Tokenizer, rng: random.Random
) -> Iterator[list[Piece]]:
    yield pieces
    yield [c for p in pieces for c in ([p] if isinstance(p, int) else p)]
    for most in (3, 12):
        made: list[Piece] = []
        for piece in pieces:
            rest = piece
            while isinstance(rest, str) and rest:
                size = rng.randint(1, most)
                made.append(rest[:size])
                rest = rest[size:]
            made += [piece] if isinstance(piece, int) else []
        yield made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--format", choices=FORMATS)
    given = parser.parse_args()
    tokenizer = Tokenizer(find_model(ModelSettings()).tokenizer)
    grammars = Grammars(lambda: vocabulary_of(tokenizer, tokenizer.num_tokens))
    grammars.vocabulary()
    control = [i for i in sorted(tokenizer.special_ids) if i not in tokenizer.eos_token_ids]
    ids = {258: control[-1], 256: control[-2]}
    counts, compile_ms, failed = Counter[str](), list[float](), list[str]()
    asked = list(questions(given.folder))[:: given.every]
    for name, plain in FORMATS.items():
        if given.format not in (None, name):
            continue
        fields = {k: ids.get(v, v) for k, v in asdict(plain).items() if k != "syntax"}
        format = ToolFormat(plain.syntax, **fields)
        for question in asked:
            verdict = check(question, name, format, grammars, tokenizer, compile_ms, ids)
            counts[f"{name}: {verdict}"] += 1
            if verdict.startswith(("not", "read")):
                failed.append(f"{name} {verdict}: {question.calls}")
    for line in failed[:20]:
        print(line[:600])
    compile_ms.sort()
    print(
        json.dumps(
            {
                "questions": len(asked),
                **counts,
                "compile_ms_p50": round(statistics.median(compile_ms), 2),
                "compile_ms_p99": round(compile_ms[int(len(compile_ms) * 0.99)], 1),
            }
        )
    )
    sys.exit(bool(failed))


def check(
    question: Question,
    name: str,
    format: ToolFormat,
    grammars: Grammars,
    tokenizer: Tokenizer,
    compile_ms: list[float],
    ids: dict[int, int],
) -> str:
    if not question.calls:
        return "left out: its answer does not fit its own schema"
    calls = question.calls if format.takes_several else question.calls[:1]
    rules, spec = spec_of(question, format)
    began = time.perf_counter()
    try:
        grammar = grammars.compile(spec, True)
    except InvalidRequest as error:
        print(name, error.message[:200])
        return "refused at compile"
    compile_ms.append((time.perf_counter() - began) * 1000)
    verdict = ""
    # Python has both; a string with a format or a pattern is in double ones.
    for quote in QUOTES[: 1 + (format.syntax is CallSyntax.PYTHONIC)]:
        asked = written(format, "", calls, quote)
        pieces = [ids.get(piece, piece) if isinstance(piece, int) else piece for piece in asked]
        verdict = verdict_of(grammar.start(), rules, pieces, calls, tokenizer)
        if verdict != NOT_ALLOWED:
            return verdict if quote == QUOTES[0] else f"{verdict}, in double quotes"
    return verdict


def verdict_of(
    constraint: Constraint,
    rules: CallRules,
    pieces: list[Piece],
    calls: list[Call],
    tokenizer: Tokenizer,
) -> str:
    token_ids = [
        i
        for piece in pieces
        for i in ([piece] if isinstance(piece, int) else tokenizer.encode(piece, add_bos=False))
    ]
    if constraint.num_allowed(token_ids) < len(token_ids):
        return NOT_ALLOWED
    constraint.append(token_ids)
    mask = int.from_bytes(constraint.mask(), "little")
    if not any(mask >> stop & 1 for stop in tokenizer.eos_token_ids):
        return "not allowed to end"
    for cutting in cuttings(pieces, tokenizer, random.Random(1)):
        if [(n, json.loads(a)) for n, a in read(rules, cutting)] != calls:
            return "read otherwise"
    return "equal"


if __name__ == "__main__":
    main()
