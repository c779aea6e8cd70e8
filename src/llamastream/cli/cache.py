"""`llamastream cache`: what servers keep on disk of what they computed for stored answers."""

import typer

from llamastream.app import clear_kv_folders, kv_folder_uses
from llamastream.cli.options import with_settings
from llamastream.config import DataSettings
from llamastream.errors import ConfigError

cache = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look after what is kept on disk of the computation of stored answers.",
)


@cache.command()
@with_settings(DataSettings)
def show(data: DataSettings) -> None:
    """Say how much each server's folder holds. Servers may be running."""
    uses = list(kv_folder_uses(data))
    for use in uses:
        state = "in use" if use.is_used else "not in use"
        typer.echo(
            f"{use.path}: {use.num_bytes / 2**20:,.1f} MiB in {use.num_blocks:,} blocks, "
            f"of {use.num_owners:,} conversations and answers ({state})"
        )
    if not uses:
        typer.echo("Nothing is kept.")


@cache.command()
@with_settings(DataSettings)
def clear(data: DataSettings) -> None:
    """Remove all of it. What is removed is computed again when it is needed."""
    if num_used := clear_kv_folders(data):
        raise ConfigError(
            f"Servers use {num_used} of the folders, which are left as they are: stop these, or "
            "start them with --kv-disk-gib 0, which keeps nothing."
        )
    typer.echo("Done.")
