"""Streamed text on a terminal, whose lines end between words."""

import re
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rich.cells import cell_len

from llamastream.types import Reasoning, ToolCall

TAB = 8
Piece = str | Reasoning | ToolCall
DIM, PLAIN, CLEAR = "\033[2m", "\033[0m", "\r\033[K"


async def print_text(
    pieces: AsyncGenerator[Piece], shown: list[Piece], *, before: str = ""
) -> None:
    """Print `before`, then texts as they come; each piece is added to `shown`.

    Of reasoning a terminal shows how long it is, while it lasts. Calls are dim, a line each. Into a
    pipe texts and calls go as they are.
    """
    is_terminal = sys.stdout.isatty()
    wrap = WordWrap(shutil.get_terminal_size().columns if is_terminal else None)
    sys.stdout.write(wrap.add(before))
    call_id = ""  # of the call that is being written
    try:
        num_thought = 0
        async with aclosing(pieces):
            async for piece in pieces:
                shown.append(piece)
                if isinstance(piece, Reasoning):
                    num_thought += len(piece.text)
                    said = f"{CLEAR}{DIM}thinking, {num_thought} characters{PLAIN}"
                    sys.stdout.write(said if is_terminal else "")
                elif piece:
                    sys.stdout.write(CLEAR if num_thought and is_terminal else "")
                    num_thought = 0
                    if isinstance(piece, ToolCall):
                        head = "" if piece.id == call_id else f"{wrap.finish()}\n{piece.name} "
                        call_id, said = piece.id, f"{head}{piece.arguments}"
                        sys.stdout.write(f"{DIM}{said}{PLAIN}" if is_terminal else said)
                    else:
                        sys.stdout.write(wrap.add(piece))
                sys.stdout.flush()
    finally:
        sys.stdout.write(wrap.finish() + "\n")
        sys.stdout.flush()


class WordWrap:
    """Breaks lines before words that would cross the last of `width` columns; None breaks none.

    A word is held back until it ends. One that is longer than a line is left to the terminal.
    """

    def __init__(self, width: int | None) -> None:
        self._width = width
        self._column = 0
        self._word = ""

    def add(self, text: str) -> str:
        """What is to be shown by now."""
        if self._width is None:
            return text
        *whole, self._word = re.split(r"(\s)", self._word + text)
        return "".join(map(self._place, whole))

    def finish(self) -> str:
        """The word that was held back."""
        word, self._word = self._word, ""
        return self._place(word)

    def _place(self, part: str) -> str:
        """One word, or one character of white space."""
        width = self._width or 0
        if part.isspace():
            if part == "\n":
                self._column = 0
            elif self._column >= width:
                return ""  # the next word breaks the line
            else:
                self._column += TAB - self._column % TAB if part == "\t" else 1
            return part
        size = cell_len(part)
        breaks = 0 < self._column and self._column + size > width
        self._column = size if breaks else self._column + size
        return "\n" + part if breaks else part
