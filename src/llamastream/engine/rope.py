"""Rotary position tables, RoPE scaling included. Knows no runner.

The invariant: row p is a function of the configuration and p alone, so that a cached key never
depends on how long its sequence was when the key was computed.
"""

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig, RopeScaling

Float32 = NDArray[np.float32]


def cos_sin(config: LlamaConfig, max_model_len: int) -> tuple[Float32, Float32]:
    """Cosines and sines of every position's angles, each (max_model_len, D / 2) float32.

    `dynamic` scaling rotates position p with the frequencies of a sequence of p + 1 tokens: what
    transformers does when it decodes token by token over its cache.
    """
    positions = np.arange(max_model_len, dtype=np.float32)
    scaling = config.rope_scaling
    if scaling is not None and scaling.rope_type == "dynamic":
        frequencies = _dynamic_frequencies(config, scaling, max_model_len)  # (max_model_len, D / 2)
    else:
        frequencies = _frequencies(config.head_dim, np.float32(config.rope_theta))[None, :]
    if scaling is not None and scaling.rope_type == "linear":
        frequencies = frequencies / np.float32(scaling.factor)
    elif scaling is not None and scaling.rope_type == "llama3":
        frequencies = _llama3_frequencies(frequencies, scaling)
    angles = (positions[:, None] * frequencies).astype(np.float64)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _frequencies(head_dim: int, base: Float32 | np.float32) -> Float32:
    """base ** (-2i / D) for i < D / 2, in float32 as transformers computes them."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: Float32 = np.float32(1) / np.power(base, exponents)
    return frequencies


def _dynamic_frequencies(config: LlamaConfig, scaling: RopeScaling, max_model_len: int) -> Float32:
    """The base grows with the sequence ("NTK-aware" scaling); below the original context it rests.

    Source: transformers, modeling_rope_utils._compute_dynamic_ntk_parameters.
    """
    original, dim = scaling.original_max_position_embeddings, config.head_dim
    lengths = np.maximum(np.arange(1, max_model_len + 1, dtype=np.float64), original)
    stretch = scaling.factor * lengths / original - (scaling.factor - 1)
    base = (config.rope_theta * stretch ** (dim / (dim - 2))).astype(np.float32)
    return _frequencies(dim, base[:, None])


def _llama3_frequencies(frequencies: Float32, scaling: RopeScaling) -> Float32:
    """Slow frequencies are divided by the factor, fast ones kept, those between interpolated.

    Source: transformers, modeling_rope_utils._compute_llama3_parameters.
    """
    turns = scaling.original_max_position_embeddings * frequencies / np.float32(2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    scaled = frequencies / np.float32(scaling.factor)
    mixed: Float32 = (1 - smooth) * scaled + smooth * frequencies
    return mixed
