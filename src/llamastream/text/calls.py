"""The calls in an answer, cut out of its text as it comes.

A cursor over generated text and ids that knows what the grammar has fixed: text, then calls. The
invariant: joined, the pieces are the same for every cutting of the answer into tokens. Nothing here
ever looks at a prompt, so no text that somebody wrote is a call.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Protocol

from llamastream.tools import WHITE, CallRules, CallSyntax
from llamastream.types import CallKind, ToolCall

_NAME = re.compile(r'"name"[ \t\r\n]*:[ \t\r\n]*"([^"]*)"')


class _State(Enum):
    START = auto()  # what came may still be the head of a call
    TEXT = auto()
    NAME = auto()
    GAP = auto()  # between a name and its arguments
    ARGUMENTS = auto()
    NEXT = auto()  # behind arguments
    RAW = auto()  # a text is the arguments, to the end of the answer


class _Arguments(Protocol):
    is_over: bool

    def add(self, char: str) -> str:
        """The JSON that one more character completes."""
        ...


class CallReader:
    """Fed with one choice's tokens. `parts` are pieces of calls since `take`."""

    def __init__(self, rules: CallRules, call_id: Callable[[int], str]) -> None:
        """`call_id`: of the n-th call."""
        self._rules, self._format, self._call_id = rules, rules.format, call_id
        self._heads = rules.heads
        self._state = _State.START if self._heads else _State.TEXT
        self._held = ""
        self._call: ToolCall | None = None  # the last one's beginning
        self._num_calls = 0
        self._arguments: _Arguments = _Json()
        self._parts: list[ToolCall] = []
        self._is_pythonic = rules.format.syntax is CallSyntax.PYTHONIC

    def add(self, text: str, token_id: int) -> str:
        """The text that one more token shows; `text` is what it completes."""
        if token_id in self._format.tokens:
            return self._on_token(token_id)
        visible = ""
        if self._state is _State.START:
            text = self._find_head(text)
        if self._state is _State.TEXT:
            visible, text = self._cut_text(text)
        self._read_calls(text)
        return visible

    def finish(self) -> str:
        """The text that was held back, which may be the beginning of a call."""
        held, self._held = self._held, ""
        return held if self._state in (_State.START, _State.TEXT) else ""

    @property
    def has_begun(self) -> bool:
        """Whether there is a call."""
        return self._call is not None

    def take(self) -> tuple[ToolCall, ...]:
        parts = tuple(self._parts)
        self._parts.clear()
        return parts

    def _on_token(self, token_id: int) -> str:
        visible = ""
        if token_id == self._format.begin and self._state is not _State.ARGUMENTS:
            visible = self.finish().rstrip(WHITE)
            self._state = _State.NAME
        elif token_id == self._format.arguments and self._state is _State.NAME:
            self._open(self._held.strip(WHITE))
            self._held = ""
        return visible

    def _find_head(self, text: str) -> str:
        self._held += text
        ends = [end for head in self._heads if (end := head.meets(self._held)) is not None]
        if ends and not any(ends):
            return ""
        text, self._held = self._held, ""
        self._state = _State.NAME if ends else _State.TEXT
        return text

    def _cut_text(self, text: str) -> tuple[str, str]:
        """What is shown, and what is behind it. White space before a call is not shown."""
        mark = "" if self._rules.has_format else self._format.mark or ""
        if not mark and self._format.begin is None:
            return text, ""
        text, self._held = self._held + text, ""
        if mark and (place := text.find(mark)) >= 0:
            self._state = _State.NAME
            return text[:place].rstrip(WHITE), text[place + len(mark) :]
        kept = text[: len(text) - _overlap(text, mark)].rstrip(WHITE)
        self._held = text[len(kept) :]
        return kept, ""

    def _read_calls(self, text: str) -> None:
        while text:
            match self._state:
                case _State.NAME:
                    text = self._read_name(text)
                case _State.GAP:
                    text = self._read_gap(text)
                case _State.ARGUMENTS:
                    text = self._read_arguments(text)
                case _State.NEXT:
                    text = self._read_next(text)
                case _:
                    self._emit(text)
                    return

    def _read_name(self, text: str) -> str:
        text, self._held = self._held + text, ""
        if self._is_pythonic:
            name, mark, rest = text.partition("(")
            if mark:
                self._open(name.strip(WHITE + "[,"))
                return rest
        elif self._format.arguments is None and (found := _NAME.search(text)):
            self._open(found[1])
            return text[found.end() :]
        self._held = text
        return ""

    def _read_gap(self, text: str) -> str:
        assert self._call is not None
        if self._call.kind == "custom":
            _, mark, rest = text.partition("\n")
            self._state = _State.RAW if mark else _State.GAP
            return rest
        if self._is_pythonic:
            place = 0
            self._arguments = _Pythonic()
            self._emit("{")
        else:
            place = text.find("{")
            self._arguments = _Json()
        if place >= 0:
            self._state = _State.ARGUMENTS
        return text[place:] if place >= 0 else ""

    def _read_arguments(self, text: str) -> str:
        pieces = []
        for char in text:
            pieces.append(self._arguments.add(char))
            if self._arguments.is_over:
                self._state = _State.NEXT
                break
        self._emit("".join(pieces))
        return text[len(pieces) :]

    def _read_next(self, text: str) -> str:
        place = text.find("," if self._is_pythonic else "{")
        if place < 0:
            return ""
        self._state = _State.NAME
        return text[place:]

    def _open(self, name: str) -> None:
        kind: CallKind = "custom" if name in self._rules.raw_names else "function"
        self._call = ToolCall(self._call_id(self._num_calls), name, "", kind)
        self._parts.append(self._call)
        self._num_calls += 1
        self._state = _State.GAP

    def _emit(self, piece: str) -> None:
        if not piece:
            return
        assert self._call is not None
        if self._parts:  # the last one is of this call
            last = self._parts[-1]
            self._parts[-1] = replace(last, arguments=last.arguments + piece)
        else:
            self._parts.append(replace(self._call, arguments=piece))


class _Json:
    """An object, as it is written."""

    def __init__(self) -> None:
        self.is_over = False
        self._depth = 0
        self._in_string = self._is_escaped = False

    def add(self, char: str) -> str:
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self.is_over = not self._depth
        return char


_WORDS = {"T": "t", "F": "f", "N": "null"}


class _Pythonic:
    """Keyword arguments behind their `(`, as a JSON object behind its `{`."""

    def __init__(self) -> None:
        self.is_over = False
        self._key: str | None = ""  # so far; None in a value
        self._num_keys = 0
        self._depth = 0
        self._quote = ""
        self._is_escaped = False
        self._num_skipped = 0  # still to come of a word

    def add(self, char: str) -> str:
        if self._quote:
            return self._in_string(char)
        if self._key is not None:
            return self._in_key(char)
        if self._num_skipped:
            self._num_skipped -= 1
            return ""
        if char in "'\"":
            self._quote = char
            return '"'
        if not self._depth and char in ",)":
            self._key, self.is_over = "", char == ")"
            return "}" if self.is_over else ""
        self._depth += (char in "[{") - (char in "]}")
        self._num_skipped = 3 if char == "N" else 0
        return _WORDS.get(char, char)

    def _in_key(self, char: str) -> str:
        assert self._key is not None
        if char == ")":
            self.is_over = True
            return "}"
        if char != "=":
            self._key += char
            return ""
        comma = ", " if self._num_keys else ""
        written = json.dumps(self._key.strip(WHITE), ensure_ascii=False)
        self._key, self._num_keys = None, self._num_keys + 1
        return f"{comma}{written}: "

    def _in_string(self, char: str) -> str:
        if self._is_escaped:
            self._is_escaped = False
            return "'" if char == "'" else "\\" + char
        if char == "\\":
            self._is_escaped = True
            return ""
        if char == self._quote:
            self._quote = ""
            return '"'
        return '\\"' if char == '"' else char


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that the mark begins with."""
    longest = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((size for size in longest if mark.startswith(text[-size:])), 0)
