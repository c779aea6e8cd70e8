"""Rotary embedding tables of a Llama model, every kind of scaling a function of the position alone.

A token's angles never depend on how long its sequence has become: otherwise cached keys would go
stale and two requests could not share a prefix.
"""

import math

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig, RopeScaling

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def rope_tables(config: LlamaConfig, max_model_len: int) -> tuple[Float32, Float32]:
    """Cosine and sine of each position's angles: two arrays (max_model_len, D / 2).

    `dynamic` turns position p by the frequencies that transformers uses for a sequence that ends
    there: the checkpoint's own inside its original length, stretched ones beyond it.
    """
    positions = np.arange(max_model_len, dtype=np.float64)[:, None]  # (max_model_len, 1)
    angles = positions * _frequencies(config, positions)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _frequencies(config: LlamaConfig, positions: Float64) -> Float64:
    """Radians per position: (1, D / 2), or (max_model_len, D / 2) where they change."""
    dim = config.head_dim
    exponents = np.arange(0, dim, 2, dtype=np.float64)[None] / dim
    scaling = config.rope_scaling
    if scaling is not None and scaling.rope_type == "dynamic":
        original = scaling.original_max_position_embeddings
        length = np.maximum(positions + 1, original)
        stretch = scaling.factor * length / original - (scaling.factor - 1)
        base = config.rope_theta * stretch ** (dim / (dim - 2))
        return np.asarray(base**-exponents)
    frequencies: Float64 = config.rope_theta**-exponents
    if scaling is None:
        return frequencies
    if scaling.rope_type == "linear":
        return frequencies / scaling.factor
    return _llama3(frequencies, scaling)


def _llama3(frequencies: Float64, scaling: RopeScaling) -> Float64:
    """Llama 3.1: long waves are stretched by `factor`, short ones kept, those between blended."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor
