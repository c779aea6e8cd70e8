"""Streamed text on a terminal, whose lines end between words."""

import re
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

from rich.cells import cell_len

TAB = 8


async def print_text(texts: AsyncGenerator[str], shown: list[str], *, before: str = "") -> None:
    """Print `before`, then `texts` as they come; each is added to `shown`.

    Into a pipe they go as they are.
    """
    is_terminal = sys.stdout.isatty()
    wrap = WordWrap(shutil.get_terminal_size().columns if is_terminal else None)
    sys.stdout.write(wrap.add(before))
    try:
        async with aclosing(texts):
            async for text in texts:
                shown.append(text)
                sys.stdout.write(wrap.add(text))
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
        return self._place(self._word)

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
