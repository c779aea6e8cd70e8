"""The one table of a model's tensors: what each is called, how large it is, where it goes.

Read by all that touch tensors: the folder and GGUF readers (names, shapes), the C++ core and the
GPU runner (places), the oracle and the tests. Knows no files and no numbers.

A model of the family that differs by tensors is a line here, and a field of LlamaConfig that says
when it is there: biases are looked up by each projection alone (Qwen2 has them on q, k and v only),
`query_norm` and `key_norm` (Qwen3) are norms of each head before its rotation. The core, the GPU
runner and the oracle compute whatever of these is there.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
_LAYER = "model.layers.{}."

Shape = tuple[int, ...]


class TensorSpec(NamedTuple):
    """One tensor of a model. Matrices are (rows out, columns in), all else are vectors.

    name: transformers'. gguf: llama.cpp's. place: the engine's, whatever the file calls it.
    """

    name: str
    gguf: str
    place: str
    shape: Shape


class StoredTensor(NamedTuple):
    """A tensor's numbers as their file has them, rows in transformers' order.

    kind: ggml's name of their type, such as F16 or Q4_K, or the core's. data: (bytes,) uint8.
    order: column i of data is column order[i]; empty: i.
    """

    kind: str
    data: NDArray[np.uint8]
    shape: Shape
    order: Sequence[int] = ()


class _Row(NamedTuple):
    name: str
    gguf: str
    place: str
    shape: Callable[[LlamaConfig], Shape]
    is_there: Callable[[LlamaConfig], bool] = lambda config: True


def query_size(config: LlamaConfig) -> int:
    return config.num_attention_heads * config.head_dim


def key_size(config: LlamaConfig) -> int:
    return config.num_key_value_heads * config.head_dim


def _hidden(config: LlamaConfig) -> Shape:
    return (config.hidden_size,)


def _words(config: LlamaConfig) -> Shape:
    return (config.vocab_size, config.hidden_size)


def _inner(config: LlamaConfig) -> Shape:
    return (config.intermediate_size, config.hidden_size)


def _head(config: LlamaConfig) -> Shape:
    return (config.head_dim,)


_TOP = (
    _Row(EMBEDDING, "token_embd.weight", "embedding", _words),
    _Row("model.norm.weight", "output_norm.weight", "norm", _hidden),
    _Row(LM_HEAD, "output.weight", "head", _words, lambda c: not c.tie_word_embeddings),
)
_NORMS = (
    _Row("input_layernorm", "attn_norm", "attention_norm", _hidden),
    _Row("post_attention_layernorm", "ffn_norm", "mlp_norm", _hidden),
    _Row("self_attn.q_norm", "attn_q_norm", "query_norm", _head, lambda c: c.qk_norm),
    _Row("self_attn.k_norm", "attn_k_norm", "key_norm", _head, lambda c: c.qk_norm),
)
# `is_there` tells of the bias: the matrices always are.
_PROJECTIONS = (
    _Row("self_attn.q_proj", "attn_q", "query",
         lambda c: (query_size(c), c.hidden_size), lambda c: c.attention_bias),
    _Row("self_attn.k_proj", "attn_k", "key",
         lambda c: (key_size(c), c.hidden_size), lambda c: c.attention_bias),
    _Row("self_attn.v_proj", "attn_v", "value",
         lambda c: (key_size(c), c.hidden_size), lambda c: c.attention_bias),
    _Row("self_attn.o_proj", "attn_output", "output",
         lambda c: (c.hidden_size, query_size(c)), lambda c: c.attention_output_bias),
    _Row("mlp.gate_proj", "ffn_gate", "gate", _inner, lambda c: c.mlp_bias),
    _Row("mlp.up_proj", "ffn_up", "up", _inner, lambda c: c.mlp_bias),
    _Row("mlp.down_proj", "ffn_down", "down",
         lambda c: (c.hidden_size, c.intermediate_size), lambda c: c.mlp_bias),
)  # fmt: skip


def _bias(row: _Row) -> _Row:
    return row._replace(place=f"{row.place}_bias", shape=lambda config: row.shape(config)[:1])


_WEIGHTS = (*_NORMS, *(row._replace(is_there=lambda config: True) for row in _PROJECTIONS))
# Of one layer: (row, what its names end in).
_LAYER_ROWS = (
    *((row, ".weight") for row in _WEIGHTS),
    *((_bias(row), ".bias") for row in _PROJECTIONS),
)


def tensor_specs(config: LlamaConfig) -> tuple[TensorSpec, ...]:
    """All tensors of a model of this shape, none more and none less."""
    rows = [row for row in _TOP if row.is_there(config)]
    specs = [TensorSpec(row.name, row.gguf, row.place, row.shape(config)) for row in rows]
    for layer in range(config.num_hidden_layers):
        for row, suffix in _LAYER_ROWS:
            if row.is_there(config):
                name, gguf, place = _names(row, suffix, layer)
                specs.append(TensorSpec(name, gguf, place, row.shape(config)))
    return tuple(specs)


def names_by_gguf(num_layers: int) -> dict[str, str]:
    """transformers' names by llama.cpp's, of every tensor that any model of the family has."""
    names = {row.gguf: row.name for row in _TOP}
    for layer in range(num_layers):
        for row, suffix in _LAYER_ROWS:
            name, gguf, _ = _names(row, suffix, layer)
            names[gguf] = name
    return names


def _names(row: _Row, suffix: str, layer: int) -> tuple[str, str, str]:
    return (
        f"{_LAYER.format(layer)}{row.name}{suffix}",
        f"blk.{layer}.{row.gguf}{suffix}",
        f"layers.{layer}.{row.place}",
    )
