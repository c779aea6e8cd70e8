"""Typed access to the fields of a config.json or a GGUF header."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llamastream.errors import ModelError

T = TypeVar("T")
MAX_INTEGER = 2**31 - 1  # no size of a model comes near; larger ones would be asked memory for
MAX_FLOAT = math.sqrt(float(np.finfo(np.float32).max))  # the engine's numbers are float32


class Fields:
    """Errors name file, field and value. A getter without a default wants the field to be there.

    `get` gives a field's value by its name, None for one that is missing.
    """

    def __init__(self, source: Path, get: Callable[[str], Any], prefix: str = "") -> None:
        self.source = source
        self.prefix = prefix
        self._value = get

    def below(self, prefix: str) -> "Fields":
        """The fields whose names begin so, under the rest of their names."""
        return Fields(self.source, self._value, self.prefix + prefix)

    def get(self, name: str) -> Any:
        return self._value(self.prefix + name)

    def integer(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(name, f"an integer >= {least}", value)
        if not least <= value <= MAX_INTEGER:
            bound = f"<= {MAX_INTEGER}" if value > 0 else f">= {least}"
            raise self.error(name, f"an integer {bound}", value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= MAX_FLOAT:
            raise self.error(name, "a number > 0", value)
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """Raises UnicodeEncodeError for bytes that were no UTF-8."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a string", value)
        value.encode()
        return value

    def items(self, name: str, kind: type[T]) -> list[T]:
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self.error(name, f"a list of {kind.__name__}", value)
        return value

    def error(self, name: str, wanted: str, value: object, way_out: str = "") -> ModelError:
        given = "nothing" if value is None else _short(value)
        way_out = f" {way_out}" if way_out else ""
        name = self.prefix + name
        return ModelError(f"{self.source}: {name} must be {wanted}. Given: {given}.{way_out}")

    def _get(self, name: str, default: Any) -> Any:
        value = self.get(name)
        return default if value is None else value


def _short(value: object) -> str:
    # NOTE: `repr` of an integer of more than 4,300 digits raises.
    is_long = isinstance(value, int) and value.bit_length() > 256
    return "a longer number" if is_long else repr(value)[:80]
