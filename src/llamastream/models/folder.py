"""Opens a local folder in Hugging Face layout: config.json, safetensors, tokenizer files."""

import re
from pathlib import Path

from llamastream.errors import InvalidRequest, ModelError, reading
from llamastream.models.checkpoint import Checkpoint, TensorEntry, fingerprint_files
from llamastream.models.hf_config import parse_config
from llamastream.models.hf_tokenizer import read_json, read_tokenizer
from llamastream.models.layout import check_layout, untied_if_own_head
from llamastream.models.quantization import join_parts, parse_quantization
from llamastream.models.safetensors_header import read_entries
from llamastream.sampling import RECOMMENDED, SamplingParams
from llamastream.spec import tensor_specs

SINGLE = "model.safetensors"
OLD_QUANTIZATION = "quantize_config.json"  # of AutoGPTQ before config.json had it
ADAPTER = "adapter_config.json"  # LoRA's and its like
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d{1,5})-of-(\d{1,5})\.safetensors")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_folder(folder: Path, *, name: str, with_weights: bool = True) -> Checkpoint:
    """Raises ModelError for anything that keeps the model from running. Reads no tensor data.

    Without weights it has no entries, and nothing is asked of their files.
    """
    config_file = folder / "config.json"
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{folder} has {ADAPTER}: weights that change another model's are not applied. Merge "
            "them into it (peft's merge_and_unload, then save_pretrained) and give that folder."
        )
    if not config_file.is_file():
        raise ModelError(
            f"{folder} has no config.json, so it is not a model in Hugging Face layout. "
            + (
                _holds_gguf(folder)
                or "Give such a folder, a .gguf file, a hub id like "
                "meta-llama/Llama-2-7b-chat-hf, or demo."
            )
        )
    warnings: list[str] = []
    values = read_json(config_file)
    if not values.get("quantization_config") and (old := read_json(folder / OLD_QUANTIZATION)):
        values["quantization_config"] = {"quant_method": "gptq", **old}
    with reading(config_file):
        config = parse_config(values, config_file)
        quantization = parse_quantization(values, config_file) if with_weights else None
    files = weight_files(folder) if with_weights else []
    is_quantised = quantization is not None
    entries = [e for file in files for e in read_entries(file, may_hold_codes=is_quantised)]
    _refuse_duplicates(folder, entries)
    if quantization is not None:
        is_sane = config.num_hidden_layers <= len(entries)  # else refused below, before a long list
        names = {spec.name for spec in tensor_specs(config)} if is_sane else set()
        entries = join_parts(entries, quantization, names)
    if with_weights:
        config = untied_if_own_head(config, entries, warnings.append)
    return Checkpoint(
        name=name,
        path=folder,
        format="safetensors",
        config=config,
        entries=check_layout(config, entries, folder) if with_weights else (),
        tokenizer=read_tokenizer(folder, values, config.vocab_size, warnings.append),
        fingerprint=fingerprint_files([config_file, *files]),
        sampling=_sampling(folder / "generation_config.json"),
        warnings=tuple(warnings),
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model. Raises ModelError when one is missing."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        return _shards(folder)
    with reading(index):
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index} must hold a weight_map. Download it again.")
        names = {Path(str(shard)).name for shard in weight_map.values()}
        files = [folder / name for name in sorted(names)]
        for file in files:
            if not file.is_file():
                raise ModelError(
                    f"{str(file):.200} is missing, but {INDEX} names it. Download it again."
                )
    return files


def _shards(folder: Path) -> list[Path]:
    """The shards of a model whose index is missing: their names say how many there must be."""
    found = {file: match for file in folder.glob("*") if (match := SHARD.fullmatch(file.name))}
    if not found:
        raise ModelError(_no_weights(folder))
    count = max(int(match[2]) for match in found.values())
    present = {int(match[1]): file for file, match in found.items() if int(match[2]) == count}
    missing = [number for number in range(1, count + 1) if number not in present]
    if missing:
        raise ModelError(
            f"{folder} lacks shard {missing[0]} of {count} of the weights. Download it again."
        )
    return [present[number] for number in range(1, count + 1)]


def _sampling(file: Path) -> SamplingParams:
    """The sampling parameters of generation_config.json. Raises ModelError for an unusable one."""
    values = read_json(file)
    given = {name: values[name] for name in RECOMMENDED if values.get(name) is not None}
    with reading(file, "Correct it, or delete the file."):
        if "top_k" in given:
            top_k = int(given["top_k"])
            given["top_k"] = 0 if top_k == -1 else top_k  # both are off
        try:
            return SamplingParams(**given)
        except InvalidRequest as error:
            raise ModelError(f"{file}: {error} Correct it, or delete the file.") from error


def _no_weights(folder: Path) -> str:
    wanted = f"{folder} has neither {SINGLE} nor {INDEX}"
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        return (
            f"{wanted}, only pickle files, which can run code when read and are never loaded. "
            "Convert them: transformers' from_pretrained and save_pretrained write safetensors."
        )
    return f"{wanted}. {_holds_gguf(folder) or 'Download the model again.'}"


def _holds_gguf(folder: Path) -> str:
    """What to do where that is so, else nothing."""
    found = next(folder.glob("*.gguf"), None)
    return "It holds GGUF files: give the path of one of them." if found else ""


def _refuse_duplicates(folder: Path, entries: list[TensorEntry]) -> None:
    first: dict[str, TensorEntry] = {}
    for entry in entries:
        other = first.setdefault(entry.name, entry)
        if other is not entry:
            raise ModelError(
                f"{folder}: tensor {entry.name!r} is in both {other.file.name} and "
                f"{entry.file.name}. Remove the file that does not belong to the model."
            )
