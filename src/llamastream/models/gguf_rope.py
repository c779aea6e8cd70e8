"""RoPE scaling as GGUF states it: three metadata keys, or one factor per frequency.

llama.cpp's converter turns Llama 3's parameters into a tensor of factors and forgets them. They are
recovered by trying the parameters of the published models.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamastream.config import RopeScaling
from llamastream.errors import ModelError
from llamastream.models.fields import Fields

LLAMA3_FACTORS = (8.0, 32.0)  # Llama 3.1 (and 3.3), Llama 3.2
LLAMA3_ORIGINAL_CONTEXT = 8192


def metadata_scaling(model: Fields, context: int) -> RopeScaling | None:
    """model: the keys of the architecture. Raises ModelError for scaling other than linear."""
    factor = model.number("rope.scaling.factor", 1.0)
    legacy = model.number("rope.scale_linear", factor)  # before llama.cpp of 2023-11
    kind = model.text("rope.scaling.type", "linear" if legacy != 1.0 else "none")
    if kind == "none" or (kind == "linear" and legacy == 1.0):
        return None
    if kind != "linear":
        raise model.error("rope.scaling.type", "none or linear", kind)
    original = model.integer("rope.scaling.original_context_length", context, least=0)
    return RopeScaling("linear", legacy, original)


def frequency_scaling(
    factors: NDArray[np.float32], head_dim: int, theta: float, file: Path
) -> RopeScaling | None:
    """The Llama 3 scaling whose divisors of the D/2 frequencies are `factors`; None for all ones.

    Raises ModelError when no known parameters give them.
    """
    if np.all(factors == 1.0):
        return None
    for factor in LLAMA3_FACTORS:
        scaling = RopeScaling("llama3", factor, LLAMA3_ORIGINAL_CONTEXT)
        known = llama3_factors(scaling, head_dim, theta)
        if known.shape == factors.shape and np.allclose(known, factors, rtol=1e-4, atol=0):
            return scaling
    raise ModelError(
        f"{file}: the factors in rope_freqs.weight are not those of Llama 3.1 or 3.2. Use the "
        "model's Hugging Face folder, whose config.json states its RoPE scaling."
    )


def llama3_factors(scaling: RopeScaling, head_dim: int, theta: float) -> NDArray[np.float64]:
    """What each of the D/2 rotation frequencies is divided by.

    Source: https://github.com/meta-llama/llama-models, models/llama3/model.py, apply_scaling.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    smooth = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / scaling.factor + smooth)
