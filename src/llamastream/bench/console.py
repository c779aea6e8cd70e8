"""What the commands print: progress on stderr, so that stdout can be kept as it is; tables."""

import sys
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from llamastream.bench.machine import Bounds
from llamastream.bench.summary import Spread, spread

PIPED_WIDTH = 160  # columns of a table that no terminal limits


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(report: RenderableType) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(report)


def table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table; columns of numbers come after those of text."""
    found = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in texts:
        found.add_column(column)
    for column in numbers:
        found.add_column(column, justify="right")
    return found


def span(values: Spread | None, form: Callable[[float], str]) -> str:
    """The median as `form` writes it, and in brackets the range; empty for None."""
    if values is None:
        return ""
    median, low, high = map(form, values)
    return median if values.low == values.high else f"{median} ({low}-{high})"


def bounds_note(bounds: Sequence[Bounds]) -> str:
    memory = span(spread([bound.bytes_per_s / 1e9 for bound in bounds]), "{:.0f}".format)
    compute = span(spread([bound.ops_per_s / 1e9 for bound in bounds]), "{:,.0f}".format)
    return f"All cores read {memory} GB/s of memory and do {compute} G operations/s at most."
