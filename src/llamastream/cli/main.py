"""The `llamastream` command and its subcommands."""

import sys
from typing import Annotated

import typer

from llamastream import __version__
from llamastream.cli.bench import bench
from llamastream.cli.chat import chat
from llamastream.cli.generate import generate
from llamastream.cli.models import models
from llamastream.cli.serve import serve
from llamastream.errors import ChatError

app = typer.Typer(
    name="llamastream",
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
app.command()(serve)
app.command()(chat)
app.command()(generate)
app.add_typer(models, name="models")
app.add_typer(bench, name="bench")


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"llamastream {__version__}")
        raise typer.Exit


def run() -> None:
    """Run the command line. An error meant for people is one line on stderr and exit code 2."""
    try:
        app()
    except ChatError as error:
        print(f"llamastream: {error.message}", file=sys.stderr)
        sys.exit(2)
