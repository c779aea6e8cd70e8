"""`llamastream models`: list, pull, show."""


import typer

models = typer.Typer(no_args_is_help=True, help="List, fetch and describe models.")
