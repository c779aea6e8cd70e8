"""From a GGUF header to a model's shape and the place of its tensors, through the `gguf` package.

Names become transformers' names. llama.cpp stores the rows of q and k in another order: entries say
so, and decoding undoes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf.gguf_reader import GGUFReader, ReaderTensor

from llamastream.config import LlamaConfig, RopeScaling
from llamastream.errors import ModelError
from llamastream.models.checkpoint import TensorEntry
from llamastream.models.fields import Fields
from llamastream.models.gguf_cache import Header
from llamastream.models.gguf_rope import frequency_scaling, metadata_scaling
from llamastream.models.gguf_tokenizer import read_tokenizer
from llamastream.models.layout import check_layout, same_bytes
from llamastream.spec import EMBEDDING, LM_HEAD, names_by_gguf

SUPPORTED_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
ROPE_FREQUENCIES = "rope_freqs.weight"


def read_header(file: Path) -> Header:
    """Raises ModelError naming the file and what in it cannot be used."""
    reader = _open(file)
    metadata = Fields(file, lambda key: _value(reader, key))
    _refuse_unsupported(metadata)
    entries = _entries(file, reader.tensors, metadata)
    config = _config(metadata, entries, _rope_factors(reader.tensors))
    if config.tie_word_embeddings:
        entries = [entry for entry in entries if entry.name != LM_HEAD]
    return Header(config, read_tokenizer(metadata, config), check_layout(config, entries, file))


def _open(file: Path) -> GGUFReader:
    try:
        return GGUFReader(file)
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"{file} is truncated or damaged: {error}. Download it again.") from error


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.fields.get(key)
    value = None if field is None else field.contents()
    # Stored as float32: the shortest decimal that rounds to it is what the author wrote.
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _refuse_unsupported(metadata: Fields) -> None:
    architecture = metadata.text("general.architecture", "")
    if architecture != "llama":
        raise ModelError(
            f"{metadata.source}: general.architecture must be 'llama' (Llama and Mistral models). "
            f"Given: {architecture!r}. Choose a model of the Llama family."
        )
    if metadata.integer("llama.expert_count", 0, least=0):
        raise ModelError(f"{metadata.source}: mixture-of-experts models are not supported.")
    if metadata.integer("split.count", 1, least=0) > 1:
        raise ModelError(
            f"{metadata.source} is one part of a split model. Join the parts first: "
            "llama-gguf-split --merge."
        )


def _entries(file: Path, tensors: Sequence[ReaderTensor], metadata: Fields) -> list[TensorEntry]:
    heads = metadata.integer("llama.attention.head_count")
    kv_heads = metadata.integer("llama.attention.head_count_kv", heads)
    reordered = {"q_proj": heads, "k_proj": kv_heads}
    # A damaged number of layers may be any, but each has a tensor of its own.
    names = names_by_gguf(min(metadata.integer("llama.block_count"), len(tensors)))
    entries = []
    for tensor in tensors:
        if tensor.name == ROPE_FREQUENCIES:
            continue
        kind = tensor.tensor_type.name
        if kind not in SUPPORTED_TYPES:
            raise ModelError(
                f"{file}: tensor {tensor.name!r} has type {kind}. Supported: "
                f"{', '.join(SUPPORTED_TYPES)}. Choose another quantisation of the model."
            )
        name = names.get(tensor.name, tensor.name)  # an unknown one is refused by the layout check
        module = name.rpartition(".")[0].rpartition(".")[2]
        shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
        num_heads = reordered.get(module, 0)
        entries.append(
            TensorEntry(name, kind, shape, file, tensor.data_offset, tensor.n_bytes, num_heads)
        )
    return sorted(entries, key=lambda entry: entry.offset)


def _rope_factors(tensors: Sequence[ReaderTensor]) -> np.ndarray | None:
    found = next((t for t in tensors if t.name == ROPE_FREQUENCIES), None)
    return None if found is None else np.array(found.data, dtype=np.float32).reshape(-1)


def _config(
    metadata: Fields, entries: Sequence[TensorEntry], factors: np.ndarray | None
) -> LlamaConfig:
    by_name = {entry.name: entry for entry in entries}
    embedding = by_name.get(EMBEDDING)
    if embedding is None:
        raise ModelError(f"{metadata.source}: tensor 'token_embd.weight' is missing.")
    hidden = metadata.integer("llama.embedding_length")
    heads = metadata.integer("llama.attention.head_count")
    kv_heads = metadata.integer("llama.attention.head_count_kv", heads)
    if heads % kv_heads:
        raise metadata.error(
            "llama.attention.head_count_kv", f"a divisor of {heads} heads", kv_heads
        )
    context = metadata.integer("llama.context_length")
    theta = metadata.number("llama.rope.freq_base", 10000.0)
    head_dim = metadata.integer("llama.attention.key_length", hidden // heads)
    for name in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if (value := metadata.integer(name, head_dim)) != head_dim:
            raise metadata.error(name, f"the head dimension, {head_dim}", value)
    scaling: RopeScaling | None = metadata_scaling(metadata, context)
    if factors is not None:
        scaling = frequency_scaling(factors, head_dim, theta, metadata.source) or scaling
    return LlamaConfig(
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        intermediate_size=metadata.integer("llama.feed_forward_length"),
        num_hidden_layers=metadata.integer("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=context,
        rms_norm_eps=metadata.number("llama.attention.layer_norm_rms_epsilon", 1e-5),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=LM_HEAD not in by_name or same_bytes(embedding, by_name[LM_HEAD]),
        attention_bias="model.layers.0.self_attn.q_proj.bias" in by_name,
        attention_output_bias="model.layers.0.self_attn.o_proj.bias" in by_name,
        mlp_bias="model.layers.0.mlp.gate_proj.bias" in by_name,
    )
