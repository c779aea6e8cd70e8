"""Tiny checkpoints for the tests of `weights`: folders as transformers writes them, GGUF files."""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[Any]]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(4)), "\u2581", "a", "b", "ab"]
KINDS = [2, 3, 3, 6, 6, 6, 6, 1, 1, 1, 1]
SCORES = [0.0] * 7 + [-3.0, -2.0, -1.0, 0.0]
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": text, "special": True, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": False}
        for i, text in enumerate(["<unk>", "<s>", "</s>"])
    ],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "BPE", "unk_token": "<unk>", "merges": [["a", "b"]],
              "vocab": {text: i for i, text in enumerate(PIECES)}},
}  # fmt: skip


def random_tensors(config: Mapping[str, Any], *, biases: Sequence[str] = ()) -> Tensors:
    """The tensors of a Llama model by transformers' names, spelled out here once more."""
    rng = np.random.default_rng(0)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim", hidden // config["num_attention_heads"])
    query, key = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for n in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            shapes[f"model.layers.{n}.{name}.weight"] = shape
            if name.partition(".")[0] in biases:
                shapes[f"model.layers.{n}.{name}.bias"] = shape[:1]
    if config.get("tie_word_embeddings"):
        del shapes["lm_head.weight"]
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_folder(
    folder: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    tensors: Tensors | None = None,
    files: Mapping[str, Any] | None = None,
) -> Tensors:
    """A model folder. `files` adds JSON files (or texts), or leaves one out where it is None."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(config) if tensors is None else tensors
    save_file(tensors, folder / "model.safetensors")
    wanted = {"config.json": dict(config), "tokenizer.json": TOKENIZER, **(files or {})}
    for name, content in wanted.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)
    return tensors


def write_safetensors(file: Path, tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> None:
    """A safetensors file byte by byte, for types NumPy lacks: name -> (dtype, shape, data)."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def gguf_order(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """What llama.cpp's converter does to q and k: halves of each head become neighbours."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GGUF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
GGUF_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str:
    if name in GGUF_TOP:
        return GGUF_TOP[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, suffix = rest.rpartition(".")
    return f"blk.{layer}.{GGUF_PARTS[part]}.{suffix}"


def write_gguf(
    file: Path,
    *,
    config: Mapping[str, Any] = CONFIG,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    metadata: Mapping[str, Any] | None = None,
    extra: Mapping[str, NDArray[Any]] | None = None,
    raw: Mapping[str, tuple[NDArray[np.uint8], gguf.GGMLQuantizationType]] | None = None,
) -> None:
    """A GGUF file of `tensors` (transformers' names, float32), matrices quantised to `kind`.

    metadata: changes to the keys written, None leaves one out. extra: tensors under GGUF's names.
    raw: tensors under GGUF's names, already in the blocks of their type.
    """
    tensors = random_tensors(config) if tensors is None else tensors
    keys = gguf_metadata(config) | dict(metadata or {})
    writer = gguf.GGUFWriter(file, keys.pop("general.architecture"))
    for key, value in keys.items():
        _add(writer, key, value)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    if _architecture(config) != "llama":  # only Llama's converter reorders rows
        heads = {}
    for name, values in tensors.items():
        module = name.split(".")[-2]
        rows = gguf_order(values, heads[module]) if module in heads else values
        if rows.ndim == 2 and kind is not gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), gguf.quantize(rows, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(rows))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    for name, (blocks, dtype) in (raw or {}).items():
        writer.add_tensor(name, blocks, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    name = _architecture(config)
    return {
        "general.architecture": name,
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": PIECES,
        "tokenizer.ggml.scores": SCORES,
        "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _architecture(config: Mapping[str, Any]) -> str:
    return GGUF_ARCHITECTURES[config["architectures"][0]]


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
