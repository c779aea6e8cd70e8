"""From text to a JSON object, refusing what JSON parsers let through in silence.

NaN and infinity, numbers out of range, duplicate keys, deep nesting and text that is not Unicode
are errors here, so that nothing behind this module has to think of them.

A parser written in C holds Python's lock for as long as it takes: seconds for megabytes of `[],`,
and every stream waits. So large texts are parsed in Python, on a thread that lets go of the lock
every few milliseconds, and hold a bounded number of values.
"""

import json
import math
import re
from collections import Counter
from json import decoder, scanner
from typing import Any, NoReturn

from llamastream.errors import InvalidRequest, PayloadTooLarge, quoted

MAX_NAMES = 4096  # in one object: no schema of a tool has more
LARGE_BYTES = 64 * 1024  # takes the parser in C a millisecond, or ten at the worst
MAX_VALUES = 2**18  # in a large text: the token ids of two prompts that fill a context of 128k
# What databases, our own serializer and 64-bit arithmetic can hold.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
MAX_DIGITS = 20
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object from bytes. Raises InvalidRequest, PayloadTooLarge for too many values."""
    try:
        text = body.decode("utf-8-sig")  # a byte order mark, which Windows' editors write
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} is invalid.") from None
    try:
        value = (_Decoder() if len(body) <= LARGE_BYTES else _CountingDecoder()).decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    except _OutOfRange as error:
        raise _out_of_range(error.digits, text) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    if SURROGATE_ESCAPE.search(text):
        _refuse_lone_surrogates(value)
    return value


class _OutOfRange(Exception):
    def __init__(self, digits: str) -> None:
        self.digits = digits


class _Decoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_integer,
        )


class _CountingDecoder(_Decoder):
    """The standard library's parser in Python, which counts the values it meets."""

    def __init__(self) -> None:
        super().__init__()
        self._num_values = 0
        self.parse_array = self._array
        self.parse_object = self._object
        self._scan_value = scanner.py_make_scanner(self)  # type: ignore[attr-defined]
        self.scan_once = self._scan

    def _array(self, begin: Any, _: Any) -> Any:
        return decoder.JSONArray(begin, self._scan)  # type: ignore[attr-defined]

    def _object(self, begin: Any, strict: bool, _: Any, *rest: Any) -> Any:
        return decoder.JSONObject(begin, strict, self._scan, *rest)  # type: ignore[attr-defined]

    def _scan(self, text: str, start: int) -> Any:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise PayloadTooLarge(
                f"The body must hold <= {MAX_VALUES} JSON values. Given: more. "
                "Send it in several requests."
            )
        return self._scan_value(text, start)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise InvalidRequest(
            f"An object in the body must have <= {MAX_NAMES} names. Given: {len(pairs)}."
        )
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InvalidRequest(f"The body holds {quoted(twice)} twice.", param=twice)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body holds {name}, which is not JSON.")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _OutOfRange(digits)
    return value


def _bounded_integer(digits: str) -> int:
    if len(digits) <= MAX_DIGITS and MIN_INTEGER <= (value := int(digits)) <= MAX_INTEGER:
        return value
    raise _OutOfRange(digits)


def _out_of_range(digits: str, text: str) -> InvalidRequest:
    found = re.search(rf'"([^"\\]+)"\s*:\s*{re.escape(digits)}', text)  # directly in an object
    param = found[1] if found else None
    return InvalidRequest(
        f"{quoted(param or 'The body', mark=False)} holds a number out of range: an integer must "
        f"be >= -2^63 and < 2^64, any other <= 1.8e308. Given: {quoted(digits, mark=False)}.",
        param=param,
    )


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("The body holds half of a surrogate pair (\\ud800-\\udfff).") from None
