"""Progress of downloads and loading, on stderr so that stdout stays clean."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from llamastream.models import Progress


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A callback that draws one bar per label, from the first report on, if any comes."""
    with ExitStack() as stack:
        draw: Progress | None = None

        def report(label: str, done_bytes: int, total_bytes: int) -> None:
            nonlocal draw
            if draw is None:
                # Deferred: most starts have nothing to show, and what draws takes 30 ms to import.
                from llamastream.cli.bars import bars

                draw = stack.enter_context(bars())
            draw(label, done_bytes, total_bytes)

        yield report
