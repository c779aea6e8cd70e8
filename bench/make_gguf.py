"""Writes a GGUF file or a Hugging Face folder of Llama-2-7B's shape, with random weights.

    python bench/make_gguf.py Q4_K_M 7b-q4_k_m.gguf
    python bench/make_gguf.py F16 7b-hf          # a folder of safetensors

What a machine does with a model's file does not depend on its numbers. Matrices are made block by
block, so that memory stays small: each repeats one random stretch of blocks of its type, whose
scales give weights of a usual size. Types are mixed as llama.cpp's quantiser mixes them. The
vocabulary is made up: prompts are token ids.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from llamastream.config import LlamaConfig
from llamastream.spec import TensorSpec, tensor_specs

LLAMA_2_7B = LlamaConfig(32000, 4096, 11008, 32, 32, 32, 128, 4096)
STRETCH_BLOCKS = 4096  # that are random; a tensor repeats them
WEIGHT_SIZE = 0.02  # as trained weights have
# What a file type makes of most matrices, and of those worth more bits.
MIXES = {
    "Q4_0": (Kind.Q4_0, Kind.Q4_0, Kind.Q6_K),
    "Q8_0": (Kind.Q8_0, Kind.Q8_0, Kind.Q8_0),
    "Q4_K_M": (Kind.Q4_K, Kind.Q6_K, Kind.Q6_K),
    "Q5_K_M": (Kind.Q5_K, Kind.Q6_K, Kind.Q6_K),
}
# Where the half-precision numbers of a block stand, and the largest integer they are times.
HALVES = {
    Kind.Q4_0: ((0,), 8),
    Kind.Q8_0: ((0,), 127),
    Kind.Q4_K: ((0, 2), 15 * 63),
    Kind.Q5_K: ((0, 2), 31 * 63),
    Kind.Q6_K: ((208,), 32 * 128),
}


def kind_of(spec: TensorSpec, mix: str) -> Kind:
    """As llama.cpp's quantiser chooses."""
    usual, finer, head = MIXES[mix]
    if len(spec.shape) == 1:
        return Kind.F32
    if spec.place == "head":
        return head
    part = spec.place.rpartition(".")[2]
    if part in ("value", "down"):
        layer, layers = int(spec.place.split(".")[1]), LLAMA_2_7B.num_hidden_layers
        first, last = layers // 8, 7 * layers // 8
        if layer < first or layer >= last or (layer - first) % 3 == 2:
            return finer
    return usual


def random_blocks(
    kind: Kind, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """(rows, bytes of a row)"""
    size, block_bytes = GGML_QUANT_SIZES[kind]
    stretch = rng.integers(0, 256, (STRETCH_BLOCKS, block_bytes), np.uint8)
    places, largest = HALVES[kind]
    for place in places:
        scales = rng.uniform(1, 2, STRETCH_BLOCKS) * 3 * WEIGHT_SIZE / largest
        if len(places) > 1 and place == places[-1]:
            scales *= 0.5 * largest / 63  # minima: half of the codes are below zero
        stretch[:, place : place + 2] = scales.astype("<f2")[:, None].view(np.uint8)
    row_blocks = shape[1] // size
    count = shape[0] * row_blocks
    return np.resize(stretch, (count, block_bytes)).reshape(shape[0], row_blocks * block_bytes)


def write_gguf(mix: str, file: Path) -> None:
    config, rng = LLAMA_2_7B, np.random.default_rng(0)
    writer = gguf.GGUFWriter(file, "llama", use_temp_file=False)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, config.vocab_size)
    kinds = [(spec, kind_of(spec, mix)) for spec in tensor_specs(config)]
    for spec, kind in kinds:
        if kind is Kind.F32:
            writer.add_tensor_info(spec.gguf, spec.shape, np.dtype(np.float32), 4 * spec.shape[0])
        else:
            size, block_bytes = GGML_QUANT_SIZES[kind]
            row_bytes = spec.shape[1] // size * block_bytes
            writer.add_tensor_info(
                spec.gguf,
                (spec.shape[0], row_bytes),
                np.dtype(np.uint8),
                spec.shape[0] * row_bytes,
                raw_dtype=kind,
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for spec, kind in kinds:
        if kind is Kind.F32:
            writer.write_tensor_data(np.ones(spec.shape, np.float32))
        else:
            writer.write_tensor_data(random_blocks(kind, spec.shape, rng))
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [chr(0x4E00 + i) for i in range(vocab_size - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(vocab_size)])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (vocab_size - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write_folder(folder: Path) -> None:
    """Float16, in shards of one layer each."""
    config, rng = LLAMA_2_7B, np.random.default_rng(0)
    folder.mkdir(parents=True)
    noise = (rng.standard_normal(2**22) * WEIGHT_SIZE).astype("<f2")
    weight_map: dict[str, str] = {}
    for shard, specs in enumerate(_shards(tensor_specs(config))):
        name = f"model-{shard:05}.safetensors"
        header: dict[str, object] = {}
        at = 0
        for spec in specs:
            size = 2 * int(np.prod(spec.shape))
            header[spec.name] = {
                "dtype": "F16",
                "shape": spec.shape,
                "data_offsets": [at, at + size],
            }
            at += size
            weight_map[spec.name] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for spec in specs:
                stream.write(np.resize(noise, spec.shape).tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    values = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
    }
    (folder / "config.json").write_text(json.dumps(values))
    vocab = {f"<{i}>": i for i in range(3)} | {chr(0x4E00 + i): i for i in range(3, 20000)}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))


def _shards(specs: tuple[TensorSpec, ...]) -> Iterator[list[TensorSpec]]:
    shards: dict[str, list[TensorSpec]] = {}
    for spec in specs:
        shards.setdefault(spec.place.rpartition(".")[0], []).append(spec)
    yield from shards.values()


def main() -> None:
    kind, path = sys.argv[1], Path(sys.argv[2])
    if kind == "F16":
        write_folder(path)
    else:
        write_gguf(kind, path)


if __name__ == "__main__":
    main()
