"""How models write calls, for tests: one writer per format, told apart from what reads them."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from llamastream.tools import CallSyntax, ToolFormat

Call = tuple[str, dict[str, Any]]
Piece = str | int  # of an answer: text, or the id of a control token
Quote = Literal["'", '"']
QUOTES: tuple[Quote, ...] = ("'", '"')
BEGIN, END = 258, 256  # ids of the byte tokenizer, as good as any

FORMATS = {
    "llama": ToolFormat(CallSyntax.LLAMA),
    "llama-token": ToolFormat(CallSyntax.LLAMA, begin=BEGIN),
    "pythonic": ToolFormat(CallSyntax.PYTHONIC),
    "pythonic-token": ToolFormat(CallSyntax.PYTHONIC, begin=BEGIN, end=END),
    "hermes": ToolFormat(CallSyntax.HERMES),
    "hermes-token": ToolFormat(CallSyntax.HERMES, begin=BEGIN, end=END),
    "mistral": ToolFormat(CallSyntax.MISTRAL, begin=BEGIN),
    "mistral-text": ToolFormat(CallSyntax.MISTRAL),
    "mistral-tagged": ToolFormat(CallSyntax.MISTRAL, begin=BEGIN, arguments=END),
    "generic": ToolFormat(CallSyntax.GENERIC),
}


def written(
    format: ToolFormat, text: str, calls: Sequence[Call], quote: Quote = "'"
) -> list[Piece]:
    """An answer. Text in front of calls only where the format has it. quote: Python's."""
    begin: Piece = format.mark if format.begin is None else format.begin  # type: ignore[assignment]
    dumped = [(name, json.dumps(given, ensure_ascii=False)) for name, given in calls]
    if not calls:
        return [text]
    match format.syntax:
        case CallSyntax.LLAMA:
            ((name, arguments),) = dumped
            call = f'{{"name": "{name}", "parameters": {arguments}}}'
            return [call] if format.begin is None else [text, begin, call]
        case CallSyntax.PYTHONIC:
            listed = ", ".join(f"{name}({_keywords(given, quote)})" for name, given in calls)
            if format.begin is None:
                return [f"[{listed}]"]
            return [text, begin, f"[{listed}]", *([] if format.end is None else [format.end])]
        case CallSyntax.MISTRAL if format.arguments is not None:
            mark = format.arguments
            return [text, *(p for name, given in dumped for p in (begin, name, mark, given))]
        case CallSyntax.MISTRAL:
            listed = ", ".join(f'{{"name": "{n}", "arguments": {given}}}' for n, given in dumped)
            return [text, begin, f" [{listed}]"]
    end: Piece = "</tool_call>" if format.end is None else format.end
    pieces: list[Piece] = [text]
    for number, (name, arguments) in enumerate(dumped):
        pieces += ["\n"] if number else []
        pieces += [begin, f'\n{{"name": "{name}", "arguments": {arguments}}}\n', end]
    return pieces


def _keywords(given: dict[str, Any], quote: Quote) -> str:
    return ", ".join(f"{name}={_literal(value, quote)}" for name, value in given.items())


def _literal(value: Any, quote: Quote) -> str:
    """As Python writes it, with JSON's escapes."""
    match value:
        case str() if quote == "'":
            inner = json.dumps(value, ensure_ascii=False)[1:-1].replace('\\"', '"')
            return "'" + inner.replace("'", "\\'") + "'"
        case list():
            return f"[{', '.join(_literal(part, quote) for part in value)}]"
        case dict():
            pairs = (f"{_literal(k, quote)}: {_literal(v, quote)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        case bool() | None:
            return repr(value)
    return json.dumps(value, ensure_ascii=False)
