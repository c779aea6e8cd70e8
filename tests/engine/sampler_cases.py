"""Parameters that every sampler must draw the same ids with as the NumPy one."""

import numpy as np
from paged_steps import int32

from llamastream.engine.runner import Float32

ROWS, VOCAB = 64, 1000


def make_logits(seed: int, *, rows: int = ROWS, vocab: int = VOCAB, scale: float = 3.0) -> Float32:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, vocab)) * scale).astype(np.float32)


def make_history(seed: int) -> dict[str, np.ndarray]:
    """Ragged prompt and output ids with repeats, and logit biases, for ROWS rows."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 40, ROWS)
    biases = rng.integers(0, 5, ROWS)
    return {
        "history_ids": int32(rng.integers(0, VOCAB // 20, sizes.sum())),
        "history_offsets": int32(np.cumsum([0, *sizes])),
        "history_num_prompt": int32(sizes // 2),
        "bias_ids": int32(rng.integers(0, VOCAB, biases.sum())),
        "bias_values": rng.uniform(-5, 5, biases.sum()).astype(np.float32),
        "bias_offsets": int32(np.cumsum([0, *biases])),
    }


CASES: dict[str, dict[str, object]] = {
    "greedy": {},
    "plain": {"temperature": 1.0},
    "hot": {"temperature": 5.0},
    "cold": {"temperature": 0.05},
    "top_k": {"temperature": 1.0, "top_k": 7},
    "top_k 1": {"temperature": 1.0, "top_k": 1},
    "top_k over the vocabulary": {"temperature": 1.0, "top_k": 5000},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "top_p near 1": {"temperature": 3.0, "top_p": 0.9999},
    "top_p near 0": {"temperature": 1.0, "top_p": 1e-6},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "all three": {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.03},
    "flat": {"temperature": 100.0, "top_p": 0.5},
    "penalties": {
        "temperature": 0.8,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.7,
        **make_history(1),
    },
    "greedy penalties": {"repetition_penalty": 50.0, "frequency_penalty": 2.0, **make_history(2)},
    "negative penalties": {"presence_penalty": -2.0, "repetition_penalty": 0.3, **make_history(3)},
}
