"""What `progress` draws: one bar for each thing that takes its time."""

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
def bars() -> Iterator[ProgressCallback]:
    """A callback that draws one bar per label; where stderr is no terminal, one line when all is
    done, so that an error stands alone."""
    console = Console(stderr=True)
    drawn = Progress(
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
            tasks[label] = drawn.add_task(label, total=total_bytes)
            drawn.start()
        drawn.update(tasks[label], completed=done_bytes, total=total_bytes)
        if drawn.finished:
            drawn.stop()  # nothing is drawn beside what the command says then
            if drawn.disable:
                console.print(f"{label}: {decimal(total_bytes)}", highlight=False)

    try:
        yield report
    finally:
        if tasks:
            drawn.stop()
