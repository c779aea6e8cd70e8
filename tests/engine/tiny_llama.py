"""Tiny random Llama checkpoints, with weights large enough that every part matters."""

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig
from llamastream.spec import tensor_specs

STORIES = LlamaConfig(  # ../shared/data/stories260K
    vocab_size=512,
    hidden_size=64,
    intermediate_size=172,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=8,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)


def tiny_config(**changes: object) -> LlamaConfig:
    fields: dict[str, object] = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
    }
    return LlamaConfig(**{**fields, **changes})  # type: ignore[arg-type]


def random_tensors(config: LlamaConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Hugging Face names; about unit-sized activations."""
    rng = np.random.default_rng(seed)
    shapes = {spec.name: spec.shape for spec in tensor_specs(config)}
    norms = {name: shape for name, shape in shapes.items() if "norm" in name}
    tensors = {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
        if name not in norms
    }
    return tensors | {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in norms.items()
    }
