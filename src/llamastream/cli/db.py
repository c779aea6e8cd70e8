"""`llamastream db`: the database of conversations and answers, while no server uses it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from llamastream.app import open_store
from llamastream.cli.options import with_settings
from llamastream.cli.saved import export_lines
from llamastream.config import DataSettings, StoreSettings
from llamastream.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from llamastream.store.store import Access, Store

T = TypeVar("T")

db = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look after the database of conversations and answers.",
)
File = Annotated[Path, typer.Argument(help="One JSON object per line.", metavar="FILE")]

Scope = Annotated[
    str,
    typer.Option(
        help="Whose the conversations of a file of the chat page become: the scope of a key, which "
        "`llamastream keys list` shows. By default everybody's, where no keys are asked for."
    ),
]


@db.command()
@with_settings(StoreSettings, DataSettings)
def upgrade(store: StoreSettings, data: DataSettings) -> None:
    """Bring the database to this version's layout. `serve` does the same when it starts."""

    async def work(_: "Store") -> None:
        pass

    _run(store, data, work, access="create")
    typer.echo("The database is up to date.")


@db.command()
@with_settings(StoreSettings, DataSettings)
def vacuum(store: StoreSettings, data: DataSettings) -> None:
    """Give the space of what was deleted back to the file system."""
    _run(store, data, lambda opened: opened.vacuum())
    typer.echo("Done.")


@db.command()
@with_settings(StoreSettings, DataSettings)
def export(store: StoreSettings, data: DataSettings, file: File) -> None:
    """Write everything to a file, readable by its owner only. A server may be running."""
    num_lines = _run(store, data, lambda opened: opened.export(file), access="read")
    typer.echo(f"Wrote {num_lines} lines to {file}.")


@db.command("import")
@with_settings(StoreSettings, DataSettings)
def import_(store: StoreSettings, data: DataSettings, file: File, scope: Scope = "") -> None:
    """Add what an export or the chat page wrote, all or nothing."""
    if not file.is_file():
        raise ConfigError(f"{file} is not a file: give one that `llamastream db export` wrote.")
    read = partial(export_lines, scope=scope)
    try:
        num_lines = _run(store, data, lambda opened: opened.import_(file, read), access="create")
    except InvalidRequest as error:
        raise ConfigError(f"{file}: {error.message}") from None
    typer.echo(f"Read {num_lines} lines from {file}.")


def _run(
    settings: StoreSettings,
    data: DataSettings,
    work: "Callable[[Store], Awaitable[T]]",
    *,
    access: "Access" = "write",
) -> T:
    async def run() -> T:
        opened = await open_store(settings, data_dir=data.data_dir, access=access)
        async with opened:
            return await work(opened)

    return asyncio.run(run())
