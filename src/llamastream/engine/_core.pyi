"""The C++ core. Arrays are C-contiguous and exactly of the type that runner.py states.

ValueError: arrays, names, shapes or limits that do not fit, with nothing changed.
RuntimeError: a damaged image file, or logits that are not finite.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

class Weights:
    """shape: vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
    num_key_value_heads, head_dim, tie_word_embeddings, attention_bias, attention_output_bias,
    mlp_bias, qk_norm. bits: of a weight: 32 (float32), 8, or 4: embedding and output matrix stay
    at 8.
    """

    def __init__(
        self, shape: tuple[int, ...], *, rms_norm_eps: float, bits: int, threads: int
    ) -> None: ...
    def add(self, name: str, tensor: NDArray[np.float32]) -> None: ...
    def missing(self) -> list[str]: ...
    def finish(self) -> None:
        """After the last tensor: store matrices in 4 bits where that loses nothing."""

    def save(self, path: str, key: str) -> None: ...
    @property
    def nbytes(self) -> int: ...

def load_weights(
    path: str,
    key: str,
    shape: tuple[int, ...],
    *,
    rms_norm_eps: float,
    bits: int,
    threads: int,
) -> Weights: ...

class Model:
    """limits: num_blocks, block_size, max_num_batched_tokens, max_num_seqs, max_model_len, threads.
    cos, sin: (max_model_len, D / 2).
    """

    def __init__(
        self,
        weights: Weights,
        limits: tuple[int, ...],
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        *,
        isa: str,
    ) -> None: ...
    def forward(
        self, batch: tuple[Array, ...], sampling: tuple[Array, ...], results: tuple[Array, ...]
    ) -> None:
        """Compute one step with the GIL released.

        batch: ForwardBatch's seven arrays; sampling: SamplingBatch's sixteen, in their order.
        results, written in place: ids (R,), logprobs (R,), top ids (R, K), top logprobs (R, K), and
        optionally logits (R, V).
        """

    @property
    def isa(self) -> str: ...

def available_isas() -> list[str]: ...
def measure_peak(isa: str, *, int8: bool, threads: int, seconds: float) -> float:
    """Multiplications and additions per second of all threads together, in registers: of bytes
    where the instruction set multiplies them and int8 asks for it, of float32 elsewhere."""

def philox4x32(counter: list[int], key: list[int]) -> list[int]: ...
def sample(
    logits: NDArray[np.float32],
    sampling: tuple[Array, ...],
    results: tuple[Array, ...],
    *,
    isa: str,
) -> None:
    """Draw one token per row of logits (R, V), as forward does."""
