"""`llamastream models`: list, pull, show."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.config import ModelSettings
from llamastream.weights import ModelInfo, describe, list_local
from llamastream.wiring import find_model

models = typer.Typer(no_args_is_help=True, help="List, fetch and describe models.")
