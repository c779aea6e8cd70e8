"""A progress bar for downloads and loading, on stderr so that stdout stays clean."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from llamastream.models import Progress as ProgressCallback


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """A callback that draws one bar per label. Bars appear with the first report, if any comes;
    where stderr is no terminal, one line when all is done, so that an error stands alone."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # into a pipe, output goes where it belongs
    )
    tasks: dict[str, TaskID] = {}

    def report(label: str, done_bytes: int, total_bytes: int) -> None:
        if label not in tasks:
            tasks[label] = bars.add_task(label, total=total_bytes)
            bars.start()
        bars.update(tasks[label], completed=done_bytes, total=total_bytes)
        if bars.finished:
            bars.stop()  # nothing is drawn beside what the command says then
            if bars.disable:
                console.print(f"{label}: {decimal(total_bytes)}", highlight=False)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()
