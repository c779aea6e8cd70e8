"""Typed access to a GGUF file's key-value metadata, with errors that name file, key and value."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf.gguf_reader import ReaderField

from llamastream.errors import ModelError


class Metadata:
    """A getter without a default raises ModelError when the key is missing."""

    def __init__(self, file: Path, fields: Mapping[str, ReaderField]) -> None:
        self.file = file
        self._fields = fields

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error(key, "an integer >= 0")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        value = self.integer(key, default)
        if value < 1:
            raise self.error(key, "an integer >= 1")
        return value

    def optional_integer(self, key: str) -> int | None:
        return self.integer(key) if key in self._fields else None

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 < value < math.inf
        ):
            raise self.error(key, "a number > 0")
        # Stored as float32: the shortest decimal that rounds to it is what the author wrote.
        return float(str(np.float32(value)))

    def boolean(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self._fields else None

    def texts(self, key: str) -> list[str]:
        return [str(item) for item in self._list(key, str)]

    def integers(self, key: str) -> list[int]:
        return [int(item) for item in self._list(key, int)]

    def numbers(self, key: str) -> list[float]:
        return [float(item) for item in self._list(key, float)]

    def error(self, key: str, wanted: str) -> ModelError:
        given = "nothing"
        if key in self._fields:
            given = repr(self._fields[key].contents())[:80]
        return ModelError(f"{self.file}: metadata {key} must be {wanted}. Given: {given}.")

    def _get(self, key: str, default: Any) -> Any:
        return self._fields[key].contents() if key in self._fields else default

    def _list(self, key: str, kind: type) -> list[Any]:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise self.error(key, f"a list of {kind.__name__}")
        return value
