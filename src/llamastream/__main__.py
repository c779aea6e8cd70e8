"""`python -m llamastream` is the `llamastream` command."""

from llamastream.cli.main import run

run()
