"""`llamastream models`: list, pull, show."""

from datetime import datetime

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamastream.app import find_model, footprint_of, make_prompts, measure_memory
from llamastream.cli.options import with_settings
from llamastream.cli.progress import progress_bars
from llamastream.config import DataSettings, DType, ModelSettings
from llamastream.errors import ModelError
from llamastream.models import Checkpoint, list_local
from llamastream.models.packed import list_images
from llamastream.sampling import RECOMMENDED, SamplingParams

DTYPES: tuple[DType, ...] = ("int8", "int4", "float32")
USUAL_CONTEXT = 4096
OWN_KINDS = {"A8": "8 bits", "Z4_32": "4 bits", "Z4_64": "4 bits", "Z4_128": "4 bits"}
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
            info.dtype,
            _bytes(info.size_bytes),
            f"{info.config.max_position_embeddings:,}",
        )
    Console().print(table)


@models.command()
@with_settings(DataSettings)
def packed(settings: DataSettings) -> None:
    """Packed weights that later starts use, with their sizes, the one used last first."""
    images = list_images(settings.data_dir)
    if not images:
        print("No packed weights yet. The first start of a model writes them.")
        return
    table = Table("packed weights", "size", "last used")
    for image in images:
        used = datetime.fromtimestamp(image.used_s).strftime("%Y-%m-%d %H:%M")
        table.add_row(image.name, _bytes(image.num_bytes), used)
    Console().print(table)
    print(f"{_bytes(sum(image.num_bytes for image in images))} in {images[0].path.parent}")


@models.command()
@with_settings(DataSettings)
def remove(settings: DataSettings, name: str) -> None:
    """Remove packed weights: a NAME that `packed` lists, or all. The next start packs anew."""
    found = [image for image in list_images(settings.data_dir) if name in (image.name, "all")]
    if not found and name != "all":
        raise ModelError(f"No packed weights {name!r}. `llamastream models packed` lists them.")
    for image in found:
        image.path.unlink(missing_ok=True)
    print(f"{_bytes(sum(image.num_bytes for image in found))} are free again.")


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
    """A model's parameters, precision, memory, speed and chat template."""
    with progress_bars() as progress:
        checkpoint = find_model(settings.model_copy(update={"model": name}), progress)
    table = Table(show_header=False, box=None)
    for label, value in facts(checkpoint, settings).items():
        table.add_row(f"[bold]{label}[/bold]", escape(value))
    Console(highlight=False).print(table)


def facts(model: Checkpoint, settings: ModelSettings) -> dict[str, str]:
    """What a person wants to know of a model: its size, and what running it takes."""
    config = model.config
    return {
        "model": model.name,
        "files": f"{model.path} ({model.format}, {_bytes(model.size_bytes)})",
        "parameters": f"{model.num_parameters:,}",
        "precision": model.dtype,
        **{dtype: _memory(model, dtype) for dtype in DTYPES},
        "context": f"{config.max_position_embeddings:,} tokens",
        "sampling": f"{_defaults(model.sampling)}, where a request does not say",
        **_running(model, settings),
        **_text(model, settings),
    }


def _text(model: Checkpoint, settings: ModelSettings) -> dict[str, str]:
    try:
        tokenizer, prompts = make_prompts(model, settings)
    except ModelError as error:
        return {"refused": error.message}
    ends = [f"{tokenizer.token_text(i)} ({i})" for i in tokenizer.eos_token_ids]
    warnings = [*model.warnings, *prompts.warnings]
    return {
        "chat template": prompts.name,
        "answers end at": ", ".join(ends) or "nothing",
        **({"warnings": "\n".join(warnings)} if warnings else {}),
    }


def _memory(model: Checkpoint, dtype: DType) -> str:
    try:
        needed = footprint_of(model, dtype)
    except ModelError as error:
        return error.message
    kinds = sorted(needed.by_kind.items(), key=lambda kind: -kind[1])
    parts = ", ".join(f"{OWN_KINDS.get(kind, kind)} {_bytes(count)}" for kind, count in kinds)
    per_token = _bytes(needed.kv_bytes_per_token)
    total = _bytes(needed.weight_bytes)
    return f"{total} of weights ({parts}), {per_token} of KV cache per token"


def _running(model: Checkpoint, settings: ModelSettings) -> dict[str, str]:
    """Of the precision chosen: memory, and what the machine's memory lets a stream reach."""
    try:
        needed = footprint_of(model, settings.dtype)
    except ModelError:  # said already
        return {}
    longest = settings.max_model_len or model.config.max_position_embeddings
    contexts = sorted({min(USUAL_CONTEXT, longest), longest})
    memory = [f"{_bytes(needed.at(context))} at {context:,} tokens" for context in contexts]
    bandwidth = measure_memory(settings)
    speed = bandwidth / needed.read_bytes
    return {
        f"memory ({settings.dtype})": f"{', '.join(memory)}: weights and one stream's cache",
        f"speed ({settings.dtype})": f"at most {speed:,.1f} tokens/s of one stream: "
        f"{_bytes(needed.read_bytes)} a token, {_bytes(bandwidth)}/s measured now",
    }


def _defaults(sampling: SamplingParams) -> str:
    """What its authors recommend: the temperature, and whatever else is not off."""
    off = SamplingParams()
    names = [name for name in RECOMMENDED if getattr(sampling, name) != getattr(off, name)]
    named = names if "temperature" in names else ["temperature", *names]
    return ", ".join(f"{name} {getattr(sampling, name):g}" for name in named)


def _bytes(count: float) -> str:
    size, unit = next(((s, u) for s, u in UNITS if count >= s), (1, "B"))
    return f"{count / size:.1f} {unit}"
