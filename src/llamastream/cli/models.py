"""`llamastream models`: list, pull, show."""

import typer
from rich.console import Console
from rich.table import Table

from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.config import ModelSettings
from llamastream.weights import ModelInfo, describe, list_local
from llamastream.wiring import find_model

UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))

models = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, fetch and describe models."
)


@models.command("list")
@with_settings(ModelSettings)
def list_models(settings: ModelSettings) -> None:
    """Models that are on this machine."""
    found = list_local(settings.data_dir / "models")
    if not found:
        print("No models yet. `llamastream models pull demo` fetches the small demo model.")
        return
    table = Table("model", "parameters", "precision", "size", "context")
    for info in found:
        table.add_row(
            info.name,
            f"{info.num_parameters / 1e6:,.0f} M",
            info.precision,
            _bytes(info.size_bytes),
            f"{info.max_context:,}",
        )
    Console().print(table)


@models.command()
@with_settings(ModelSettings)
def pull(settings: ModelSettings, name: str) -> None:
    """Fetch a model, so that serving it needs no network."""
    with progress_bars() as progress:
        checkpoint = find_model(settings.model_copy(update={"model": name}), progress)
    print(f"{checkpoint.name} is in {checkpoint.path}")


@models.command()
@with_settings(ModelSettings)
def show(settings: ModelSettings, name: str) -> None:
    """A model's parameters, precision, memory and context."""
    with progress_bars() as progress:
        checkpoint = find_model(settings.model_copy(update={"model": name}), progress)
    table = Table(show_header=False, box=None)
    for label, value in _facts(describe(checkpoint)):
        table.add_row(f"[bold]{label}[/bold]", value)
    Console(highlight=False).print(table)


def _facts(info: ModelInfo) -> list[tuple[str, str]]:
    return [
        ("model", info.name),
        ("files", f"{info.path} ({info.format}, {_bytes(info.size_bytes)})"),
        ("parameters", f"{info.num_parameters:,}"),
        ("precision", info.precision),
        ("int8", _memory(info.int8_bytes, info.int8_kv_bytes)),
        ("float32", _memory(info.float32_bytes, info.float32_kv_bytes)),
        ("context", f"{info.max_context:,} tokens"),
    ]


def _memory(weights: int, per_token: int) -> str:
    return f"{_bytes(weights)} of weights, {_bytes(per_token)} of KV cache per token"


def _bytes(count: int) -> str:
    size, unit = next(((s, u) for s, u in UNITS if count >= s), (1, "B"))
    return f"{count / size:.1f} {unit}"
