"""Opens a local folder in Hugging Face layout: config.json, safetensors, tokenizer files."""

from pathlib import Path

from llamastream.errors import InvalidRequest, ModelError
from llamastream.models.checkpoint import Checkpoint, TensorEntry, fingerprint_files
from llamastream.models.hf_config import parse_config
from llamastream.models.hf_tokenizer import read_json, read_tokenizer
from llamastream.models.layout import check_layout
from llamastream.models.safetensors_header import read_entries
from llamastream.sampling import SamplingParams

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_folder(folder: Path, *, name: str) -> Checkpoint:
    """Raises ModelError for anything that keeps the model from running. Reads no tensor data."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ModelError(
            f"{folder} has no config.json, so it is not a model in Hugging Face layout. Give "
            "such a folder, a .gguf file, a hub id like meta-llama/Llama-2-7b-chat-hf, or demo."
        )
    values = read_json(config_file)
    config = parse_config(values, config_file)
    files = weight_files(folder)
    entries = [entry for file in files for entry in read_entries(file)]
    _refuse_duplicates(folder, entries)
    return Checkpoint(
        name=name,
        path=folder,
        format="safetensors",
        config=config,
        tokenizer=read_tokenizer(folder, values),
        entries=check_layout(config, entries, folder),
        fingerprint=fingerprint_files([config_file, *files]),
        sampling=_sampling(folder / "generation_config.json"),
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model. Raises ModelError when one is missing."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        raise ModelError(_no_weights(folder))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} must hold a weight_map. Download it again.")
    files = [folder / shard for shard in sorted({Path(str(s)).name for s in weight_map.values()})]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file} is missing, but {INDEX} names it. Download it again.")
    return files


def _sampling(file: Path) -> SamplingParams:
    """The sampling parameters of generation_config.json. Raises ModelError for an unusable one."""
    values = read_json(file)
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    given = {name: values[name] for name in names if values.get(name) is not None}
    try:
        return SamplingParams(**given)
    except (InvalidRequest, TypeError) as error:
        raise ModelError(f"{file}: {error} Correct it, or delete the file.") from error


def _no_weights(folder: Path) -> str:
    wanted = f"{folder} has neither {SINGLE} nor {INDEX}"
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        return (
            f"{wanted}, only pickle files, which can run code when read and are never loaded. "
            "Convert them: transformers' from_pretrained and save_pretrained write safetensors."
        )
    if next(folder.glob("*.gguf"), None):
        return f"{wanted}. It holds GGUF files: give the path of one of them."
    return f"{wanted}. Download the model again."


def _refuse_duplicates(folder: Path, entries: list[TensorEntry]) -> None:
    first: dict[str, TensorEntry] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry)
        if other is not entry:
            raise ModelError(
                f"{folder}: tensor {entry.name!r} is in both {other.file.name} and "
                f"{entry.file.name}. Remove the file that does not belong to the model."
            )
