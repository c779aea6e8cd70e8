"""What a grammar may hold, counted before anything is compiled: that cannot be interrupted.

Each refusal names the limit and what was given.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from llamastream.errors import InvalidRequest

MAX_BYTES = 256 * 1024
MAX_DEPTH = 100  # of the JSON: the parser's own limit is 128
MAX_PROPERTIES = 1000
MAX_ENUM = 10_000
MAX_PATTERN = 1024  # characters
MAX_REPEATS = 10_000  # counts inside counts, multiplied
MAX_LARK = 64 * 1024
_COUNT = re.compile(r"\{(\d{0,9})(?:,(\d{0,9}))?\}")


def read_schema(text: str, param: str) -> Any:
    """The schema, checked. Raises InvalidRequest."""
    check_size(text, MAX_BYTES, param)
    depth = _json_depth(text)
    check("depth", depth, MAX_DEPTH, param)
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise InvalidRequest(f"{param} must be JSON: {error}.", param=param) from error
    if not isinstance(schema, dict | bool):
        raise InvalidRequest(f"{param} must be a JSON schema: an object.", param=param)
    num_properties = num_values = 0
    for node in _objects(schema):
        for name in ("properties", "patternProperties", "$defs", "definitions"):
            part = node.get(name)
            num_properties += len(part) if isinstance(part, dict) else 0
        values = node.get("enum")
        num_values += len(values) if isinstance(values, list) else 0
        if isinstance(pattern := node.get("pattern"), str):
            check_pattern(pattern, f"{param}: pattern")
        if isinstance(keys := node.get("patternProperties"), dict):
            for pattern in keys:
                check_pattern(pattern, f"{param}: patternProperties")
    check("properties", num_properties, MAX_PROPERTIES, param)
    check("enum values", num_values, MAX_ENUM, param)
    return schema


def check_size(text: str, most: int, param: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most:
        raise InvalidRequest(f"{param} must be <= {most} bytes long. Given: {size}.", param=param)


def check_pattern(pattern: str, what: str) -> None:
    """A regular expression: its length, and how often it repeats. Raises InvalidRequest."""
    param = what.partition(":")[0]
    if len(pattern) > MAX_PATTERN:
        raise InvalidRequest(
            f"{what} must be <= {MAX_PATTERN} characters long. Given: {len(pattern)}.", param=param
        )
    repeats = num_repeats(pattern)
    if repeats > MAX_REPEATS:
        raise InvalidRequest(
            f"{what} must repeat its parts <= {MAX_REPEATS} times, counts inside counts multiplied."
            f" Given: {repeats}.",
            param=param,
        )


def check_choices(values: list[str], param: str) -> None:
    check("choices", len(values), MAX_ENUM, param)
    check_size("".join(values), MAX_BYTES, param)


def check(what: str, count: int, most: int, param: str) -> None:
    if count > most:
        raise InvalidRequest(
            f"{param} must have <= {most} {what}"
            + (" of nesting" if what == "depth" else "")
            + f" in all. Given: {count}.",
            param=param,
        )


def num_repeats(pattern: str) -> int:
    """The largest product of counts that stand inside each other."""
    inside = [1]  # of each open group, what its parts come to
    last, place = 1, 0  # of the part in front of a count
    while place < len(pattern):
        char = pattern[place]
        if char == "\\":
            last, place = 1, place + 2
            continue
        if char == "[":
            end = _class_end(pattern, place)
            last, place = 1, end
            continue
        if char == "(":
            inside.append(1)
            last = 1
        elif char == ")" and len(inside) > 1:
            last = inside.pop()
            inside[-1] = max(inside[-1], last)
        elif char == "{" and (match := _COUNT.match(pattern, place)):
            last *= max(int(number) if number else 1 for number in match.groups())
            inside[-1] = max(inside[-1], last)
            place = match.end()
            continue
        elif char not in "*+?":
            last = 1
        place += 1
    return max(inside)


def _class_end(pattern: str, start: int) -> int:
    place = start + 1
    if pattern[place : place + 1] == "^":
        place += 1
    place += pattern[place : place + 1] == "]"  # the first one is itself
    while place < len(pattern) and pattern[place] != "]":
        place += 2 if pattern[place] == "\\" else 1
    return place + 1


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _json_depth(text: str) -> int:
    """Of brackets outside strings; read before a parser that would recurse."""
    depth = most = 0
    for mark in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        if mark[0] in "[{":
            depth += 1
            most = max(most, depth)
        elif mark[0] in "]}":
            depth -= 1
    return most
