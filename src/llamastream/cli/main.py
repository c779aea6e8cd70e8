"""The `llamastream` command. A subcommand's module is imported when it is called, not before.

`serve` must not wait for what only `chat` or `bench` needs.
"""

import gc
import importlib
import os
import sys
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llamastream import __version__
from llamastream.errors import EXIT_TEMPORARY, ChatError, exit_code, may_pass

# cli/NAME.py has NAME
COMMANDS = ("serve", "chat", "generate", "models", "bench", "db", "cache", "keys", "verify")


class _LazyCommands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(_import(f"llamastream.cli.{cmd_name}"), cmd_name)
        if not isinstance(found, typer.Typer):
            app = typer.Typer(add_completion=False)
            app.command(cmd_name)(found)
            found = app
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


def _import(name: str) -> ModuleType:
    """Nothing of what imports make is garbage: to look for some, again and again, takes a tenth of
    a start."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


app = typer.Typer(
    name="llamastream",
    cls=_LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Stream chat from a Llama-family model on your own machine. Start with "
    "[bold]llamastream serve[/bold] or [bold]llamastream chat[/bold].",
    epilog="Every option is also an environment variable (--max-num-seqs is "
    "LLAMASTREAM_MAX_NUM_SEQS) and a key of the TOML file given by --config (max_num_seqs = 8). "
    "A flag wins over the variable, the variable over the file.",
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"llamastream {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,  # without a command, the body below is not reached
        ),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the command line. An error meant for people is one line on stderr and its exit code."""
    try:
        app()
        return
    except ChatError as error:
        message, code = error.message, exit_code(error)
    except OSError as error:
        if not may_pass(error):
            raise
        # What could not be written is not to be tried again by the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message, code = f"{error.strerror or error}.", EXIT_TEMPORARY
    print(f"llamastream: {message}", file=sys.stderr)
    # The error's frames hold what the core made. Its types complain on stderr if they outlive the
    # interpreter, so frames go first, also those that `serve` has put out of the collector's sight.
    gc.unfreeze()
    gc.collect()
    sys.exit(code)
