"""Tiny random Llama checkpoints, with weights large enough that every part matters."""

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig

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
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    shapes = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    norms = ["model.norm.weight"]
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        norms += [f"{name}.input_layernorm.weight", f"{name}.post_attention_layernorm.weight"]
        attention = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden)}
        for part, shape in {**attention, "o": (hidden, queries)}.items():
            shapes[f"{name}.self_attn.{part}_proj.weight"] = shape
            if config.attention_bias:
                shapes[f"{name}.self_attn.{part}_proj.bias"] = shape[:1]
        for part, shape in {"gate": (inner, hidden), "up": (inner, hidden)}.items():
            shapes[f"{name}.mlp.{part}_proj.weight"] = shape
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
        if config.mlp_bias:
            for part, width in {"gate": inner, "up": inner, "down": hidden}.items():
                shapes[f"{name}.mlp.{part}_proj.bias"] = (width,)
    tensors = {
        name: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in shapes.items()
    }
    tensors |= {name: rng.uniform(0.5, 1.5, hidden).astype(np.float32) for name in norms}
    return tensors
