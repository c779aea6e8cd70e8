"""Keyword arguments in Python's notation, by a JSON schema of their object.

Names, strings, numbers, booleans, None, lists and dicts are written as Python writes them. A
schema that says more of a value is left to the parser, whose values are JSON: they are read too.
"""

import json
import re
from typing import Any

from llamastream.errors import InvalidRequest, quoted
from llamastream.grammar.spelling import SPACED, Json, of_schema, quote
from llamastream.tools import WHITE

# Keywords that say something of a value; others are labels, or nobody's.
_KEYWORDS = {"type", "enum", "const", "properties", "required", "additionalProperties", "items"}
_KEYWORDS |= {"anyOf", "allOf", "oneOf", "not", "if", "then", "else", "$ref", "pattern", "format"}
_KEYWORDS |= {"minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "prefixItems"}
_KEYWORDS |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_KEYWORDS |= {"minProperties", "maxProperties", "patternProperties", "propertyNames", "contains"}
_KEYWORDS |= {"dependencies", "dependentRequired", "dependentSchemas", "unevaluatedProperties"}
_KEYWORDS |= {"unevaluatedItems", "additionalItems", "$dynamicRef"}
_NO_NAME = set("=(),'\"[]{}" + WHITE)
# Between single quotes JSON's escapes, and that of the quote: the reader makes JSON of it.
_STRING = (
    r"""STRING: /'([^'\\\x00-\x1f\x7f]|\\(['"\\\/bfnrt]|u[0-9a-fA-F]{4}))*'/"""
    r""" | /"([^"\\\x00-\x1f\x7f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))*"/"""
)
# Of a dict, beside those that are named: without escapes, in which a named one could hide.
_KEY = r"""/'[^'"\\\x00-\x1f\x7f]*'|"[^'"\\\x00-\x1f\x7f]*"/"""
_INTEGER = r"INTEGER: /-?(0|[1-9][0-9]{0,18})/"
_NUMBER = r"NUMBER: /-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,3})?/"
_SIMPLE = {
    "string": "STRING",
    "integer": "INTEGER",
    "number": "NUMBER",
    "boolean": '("True" | "False")',
    "null": '"None"',
    "array": "any_list",
    "object": "any_dict",
}
_CLASSES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
}
# Of values of which nothing is known.
_ANY = (
    'any: STRING | NUMBER | "True" | "False" | "None" | any_list | any_dict',
    'any_list: "[" (any (", " any)*)? "]"',
    'any_dict: "{" (STRING ": " any (", " STRING ": " any)*)? "}"',
)
SHARED = (_STRING, _INTEGER, _NUMBER, *_ANY)


class Pythonic:
    """`lines`: rules, of which the one called `name` is all that stands behind the opening bracket.
    `bodies`: grammars that they refer to."""

    def __init__(self, name: str, schema: Json, param: str, *, is_lenient: bool) -> None:
        """Raises InvalidRequest for names that this notation cannot write."""
        self.lines: list[str] = []
        self.bodies: list[Json] = []
        self._name, self._is_lenient = name, is_lenient
        self._definitions = {k: schema[k] for k in ("$defs", "definitions") if k in schema}
        required = set(schema.get("required", ()))
        given = schema.get("properties", {})
        properties = {k: part for k, part in given.items() if k in required or _can_be(part)}
        for key in properties:
            if not key or _NO_NAME & set(key):
                raise InvalidRequest(
                    f"{param}: {quoted(key)} cannot be the name of an argument in this model's "
                    "format of calls. Choose another, or start the server with --tool-format.",
                    param=param,
                )
        items = [
            (f"{quote(key + '=')} {self._value(part)}", key) for key, part in properties.items()
        ]
        self._list(name, items, required, quote(")"))

    def _list(
        self,
        name: str,
        items: list[tuple[str, str]],
        required: set[str],
        end: str,
        other: str | None = None,
    ) -> None:
        """A rule for items in order, with commas between those that are there. `other`: an item of
        which any number may be behind them."""
        for k in range(len(items), -1, -1):  # none of the first k was written, or one was
            rest = f"{name}_{k}"
            if k == len(items):
                more = "" if other is None else f'(", " {other})* '
                first = "" if other is None else f" | {other} {more}{end}"
                self.lines += [f"{rest}: {end}{first}", f"{rest}m: {more}{end}"]
                continue
            item, key = items[k]
            first, later = f"{item} {name}_{k + 1}m", f'", " {item} {name}_{k + 1}m'
            if key not in required:
                first, later = f"{first} | {name}_{k + 1}", f"{later} | {name}_{k + 1}m"
            self.lines += [f"{rest}: {first}", f"{rest}m: {later}"]
        self.lines.append(f"{name}: {name}_0")

    def _value(self, schema: Any) -> str:
        """An expression for one value."""
        said = schema if isinstance(schema, dict) else {}
        keys, kind = said.keys() & _KEYWORDS, said.get("type")
        if "enum" in said and isinstance(kind, str):
            said = said | {"enum": [value for value in said["enum"] if _is_of(value, kind)]}
        if not keys and schema is not False:
            return "any"
        if keys <= {"type", "enum"} and "enum" in said and all(map(_is_plain, said["enum"])):
            return f"({' | '.join(map(_constant, said['enum']))})"
        if keys == {"type"} and isinstance(kind, list) and set(kind) <= _SIMPLE.keys():
            return f"({' | '.join(_SIMPLE[one] for one in kind)})"
        if keys == {"type"} and isinstance(kind, str) and kind in _SIMPLE:
            return _SIMPLE[kind]
        if keys == {"anyOf"} and isinstance(said["anyOf"], list) and said["anyOf"]:
            return f"({' | '.join(map(self._value, said['anyOf']))})"
        if keys == {"type", "items"} and kind == "array":
            item = self._value(said["items"])
            return f'"[" ({item} (", " {item})*)? "]"'
        if kind == "object" and keys <= {"type", "properties", "required", "additionalProperties"}:
            return self._dict(said)
        return self._json(schema)

    def _dict(self, schema: Json) -> str:
        """With the keys that it names in their order, and then others unless it has none."""
        more = schema.get("additionalProperties", True)
        if not schema.get("properties"):
            pair = f'STRING ": " {self._value(more)}'
            return '"{" "}"' if more is False else f'"{{" ({pair} (", " {pair})*)? "}}"'
        name = f"{self._name}d{len(self.lines)}"
        self.lines.append("")  # keeps the number
        items = [
            (f'({_constant(key)}) ": " {self._value(part)}', key)
            for key, part in schema["properties"].items()
        ]
        other = None
        if more is not False:
            named = "|".join(re.escape(key).replace("/", r"\/") for key in schema["properties"])
            other = f'{name.upper()} ": " {self._value(more)}'
            self.lines.append(f"{name.upper()}: {_KEY} & ~/.({named})./")
        self._list(name, items, set(schema.get("required", ())), quote("}"), other)
        return f'"{{" {name}'

    def _json(self, schema: Any) -> str:
        name = f"{self._name}j{len(self.bodies)}"
        if isinstance(schema, dict):
            schema = self._definitions | schema
        body = of_schema(schema, is_lenient=self._is_lenient, separators=SPACED)
        self.bodies.append(body | {"name": name})
        return f"@{name}"


def _can_be(schema: Any) -> bool:
    """False where it is plain that nothing can be given: it is then left out."""
    if not isinstance(schema, dict) or not isinstance(kind := schema.get("type"), str):
        return schema is not False
    return any(_is_of(value, kind) for value in schema["enum"]) if "enum" in schema else True


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    return isinstance(value, _CLASSES.get(kind, ()))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _constant(value: Any) -> str:
    if isinstance(value, str):
        double = json.dumps(value, ensure_ascii=False)
        single = double[1:-1].replace('\\"', '"').replace("'", "\\'")
        return f"{quote(double)} | {quote(chr(39) + single + chr(39))}"
    return quote(repr(value) if isinstance(value, bool) or value is None else json.dumps(value))
