"""From a GGUF header to a model's shape and the place of its tensors.

Names become transformers' names. llama.cpp stores the rows of Llama's q and k in another order:
entries say so, and decoding undoes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llamastream.config import LlamaConfig, RopeScaling
from llamastream.errors import ModelError, reading
from llamastream.models.checkpoint import TensorEntry
from llamastream.models.families import BY_GGUF, Family
from llamastream.models.fields import Fields
from llamastream.models.gguf_cache import Header
from llamastream.models.gguf_parts import read_parts
from llamastream.models.gguf_reader import GGUFHeader, GGUFTensor
from llamastream.models.gguf_rope import frequency_scaling, metadata_scaling
from llamastream.models.gguf_tokenizer import read_tokenizer
from llamastream.models.layout import check_layout, same_bytes
from llamastream.spec import EMBEDDING, LM_HEAD, names_by_gguf

SUPPORTED_TYPES = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"),
)
ROPE_FREQUENCIES = "rope_freqs.weight"

InFile = tuple[Path, GGUFTensor]


def read_header(file: Path) -> Header:
    """Raises ModelError naming the file and what in it cannot be used."""
    with reading(file):
        parts = read_parts(file)
        file, first = parts[0]
        metadata = Fields(file, lambda key: _value(first, key))
        tensors = [(part, tensor) for part, header in parts for tensor in header.tensors]
        warnings: list[str] = []
        if (kind := metadata.text("general.type", "model")) != "model":
            way_out = "Give the model; an adapter is merged into it by llama-export-lora."
            raise metadata.error("general.type", "'model'", kind, way_out)
        family = _family(metadata)
        model = metadata.below(f"{family.gguf}.")
        if model.integer("expert_count", 0, least=0):
            raise ModelError(f"{file}: mixture-of-experts models are not supported.")
        entries = _entries(tensors, family, model)
        config = _config(family, model, entries, _rope_factors(tensors))
        if config.tie_word_embeddings:
            entries = [entry for entry in entries if entry.name != LM_HEAD]
        kept = check_layout(config, entries, file)
        tokenizer = read_tokenizer(metadata, list(first.metadata), config, warnings.append)
        return Header(config, tokenizer, kept, tuple(warnings))


def _value(header: GGUFHeader, key: str) -> Any:
    value = header.metadata.get(key)
    # Stored as float32: the shortest decimal that rounds to it is what the author wrote.
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _family(metadata: Fields) -> Family:
    architecture = metadata.text("general.architecture", "")
    if architecture not in BY_GGUF:
        raise metadata.error(
            "general.architecture",
            f"one of {', '.join(sorted(BY_GGUF))} (llama: Llama and Mistral models)",
            architecture,
            "Choose a model of one of these.",
        )
    return BY_GGUF[architecture]


def _entries(tensors: Sequence[InFile], family: Family, model: Fields) -> list[TensorEntry]:
    heads = model.integer("attention.head_count")
    kv_heads = model.integer("attention.head_count_kv", heads)
    reordered = {"q_proj": heads, "k_proj": kv_heads} if family.is_interleaved else {}
    # A damaged number of layers may be any, but each has a tensor of its own.
    names = names_by_gguf(min(model.integer("block_count"), len(tensors)))
    entries = []
    for file, tensor in tensors:
        if tensor.name == ROPE_FREQUENCIES:
            continue
        if tensor.dtype not in SUPPORTED_TYPES:
            raise ModelError(
                f"{file}: tensor {tensor.name!r} has type {tensor.dtype}. Supported: "
                f"{', '.join(SUPPORTED_TYPES)}. Choose another quantisation of the model."
            )
        name = names.get(tensor.name, tensor.name)  # an unknown one is refused by the layout check
        module = name.rpartition(".")[0].rpartition(".")[2]
        _, dtype, shape, offset, num_bytes = tensor
        num_heads = reordered.get(module, 0)
        entries.append(TensorEntry(name, dtype, shape, file, offset, num_bytes, num_heads))
    return sorted(entries, key=lambda entry: (entry.file, entry.offset))


def _rope_factors(tensors: Sequence[InFile]) -> np.ndarray | None:
    file, found = next((t for t in tensors if t[1].name == ROPE_FREQUENCIES), (None, None))
    if file is None or found is None:
        return None
    if found.dtype != "F32":
        raise ModelError(f"{file}: tensor {ROPE_FREQUENCIES!r} must be F32. Given: {found.dtype}.")
    return np.fromfile(file, "<f4", found.num_bytes // 4, offset=found.offset)


def _config(
    family: Family, model: Fields, entries: Sequence[TensorEntry], factors: np.ndarray | None
) -> LlamaConfig:
    by_name = {entry.name: entry for entry in entries}
    embedding = by_name.get(EMBEDDING)
    if embedding is None:
        raise ModelError(f"{model.source}: tensor 'token_embd.weight' is missing.")
    hidden = model.integer("embedding_length")
    heads = model.integer("attention.head_count")
    kv_heads = model.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        raise model.error("attention.head_count_kv", f"a divisor of {heads} heads", kv_heads)
    context = model.integer("context_length")
    theta = model.number("rope.freq_base", 10000.0)
    head_dim = model.integer("attention.key_length", hidden // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if (value := model.integer(name, head_dim)) != head_dim:
            raise model.error(name, f"the head dimension, {head_dim}", value)
    scaling: RopeScaling | None = metadata_scaling(model, context)
    if factors is not None:
        scaling = frequency_scaling(factors, head_dim, theta, model.source) or scaling
    return LlamaConfig(
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        intermediate_size=model.integer("feed_forward_length"),
        num_hidden_layers=model.integer("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context,
        rms_norm_eps=model.number("attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=LM_HEAD not in by_name or same_bytes(embedding, by_name[LM_HEAD]),
        attention_bias="model.layers.0.self_attn.q_proj.bias" in by_name,
        attention_output_bias="model.layers.0.self_attn.o_proj.bias" in by_name,
        mlp_bias="model.layers.0.mlp.gate_proj.bias" in by_name,
        qk_norm=family.qk_norm,
    )
