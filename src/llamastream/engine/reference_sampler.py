"""How a token is drawn, step by step as docs/sampling.md numbers it. Slow and obvious.

Knows one row at a time. The invariant: the result depends on the row's logits and parameters only.
"""

import numpy as np
from numpy.typing import NDArray

from llamastream.engine.runner import Float32, Int32, SamplingBatch, StepResult, UInt32

MASK_32 = 0xFFFFFFFF


def sample(logits: Float32, sampling: SamplingBatch, *, return_logits: bool) -> StepResult:
    """Draw one token per row. logits: (R, V) raw, not modified."""
    num_rows, num_top = len(logits), sampling.most_logprobs
    token_ids = np.empty(num_rows, np.int32)
    logprobs = np.full(num_rows, np.nan, np.float32)
    top_ids = np.full((num_rows, num_top), -1, np.int32)
    top_logprobs = np.full((num_rows, num_top), np.nan, np.float32)
    for row in range(num_rows):
        target = sampling.targets[row]
        token_ids[row] = target if target >= 0 else draw(logits[row], sampling, row)
        wanted = sampling.num_logprobs[row]
        if wanted >= 0:
            all_logprobs = log_softmax(logits[row])
            best = by_falling_value(all_logprobs)[:wanted]
            logprobs[row] = all_logprobs[token_ids[row]]
            top_ids[row, : len(best)] = best
            top_logprobs[row, : len(best)] = all_logprobs[best]
    return StepResult(
        token_ids, logprobs, top_ids, top_logprobs, logits.copy() if return_logits else None
    )


def draw(raw_logits: Float32, sampling: SamplingBatch, row: int) -> int:
    """The token of one row (steps 2 to 7). raw_logits: (V,)."""
    logits = penalized(raw_logits, sampling, row)
    bias = slice(sampling.bias_offsets[row], sampling.bias_offsets[row + 1])
    np.add.at(logits, sampling.bias_ids[bias], sampling.bias_values[bias])
    if sampling.mask_rows[row] >= 0:
        logits[~allowed(sampling.masks[sampling.mask_rows[row]], len(logits))] = -np.inf
    temperature = sampling.temperature[row]
    if temperature == 0:
        return int(logits.argmax())  # the lowest id among equals
    probs = np.exp(log_softmax(logits / temperature))
    kept = candidates(probs, sampling, row)
    cumulative = np.cumsum(probs[kept], dtype=np.float64)
    u = uniform(int(sampling.seed[row]), int(sampling.position[row]))
    index = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    return int(kept[min(index, len(kept) - 1)])


def penalized(raw_logits: Float32, sampling: SamplingBatch, row: int) -> Float32:
    """A copy of the logits after repetition, frequency and presence penalty (step 2)."""
    logits = raw_logits.copy()
    start, stop = sampling.history_offsets[row : row + 2]
    history = sampling.history_ids[start:stop]
    seen = np.unique(history)
    penalty = sampling.repetition_penalty[row]
    logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    output_ids = history[sampling.history_num_prompt[row] :]
    drawn, counts = np.unique(output_ids, return_counts=True)
    logits[drawn] -= sampling.frequency_penalty[row] * counts.astype(np.float32)
    logits[drawn] -= sampling.presence_penalty[row]
    return logits


def allowed(mask: UInt32, vocab_size: int) -> NDArray[np.bool_]:
    """Whether each id may be drawn (step 3b)."""
    bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")
    return bits[:vocab_size].astype(bool)


def candidates(probs: Float32, sampling: SamplingBatch, row: int) -> Int32:
    """The ids that may be drawn, rising (step 5). probs: (V,)."""
    order = by_falling_value(probs)
    if sampling.top_k[row] > 0:
        order = order[: sampling.top_k[row]]
    if sampling.top_p[row] < 1:
        mass = np.cumsum(probs[order], dtype=np.float64)
        order = order[: np.searchsorted(mass, sampling.top_p[row] * mass[-1]) + 1]
    order = order[probs[order] >= sampling.min_p[row] * probs[order[0]]]
    return np.sort(order)


def by_falling_value(values: Float32) -> Int32:
    """Indices of `values`, largest first, equal ones by rising index."""
    return np.argsort(-values, kind="stable").astype(np.int32)


def log_softmax(logits: Float32) -> Float32:
    shifted = logits.astype(np.float64) - logits.max()
    logprobs: Float32 = (shifted - np.log(np.exp(shifted).sum())).astype(np.float32)
    return logprobs


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that draws output `position` (step 6)."""
    word = philox4x32((position, 0, 0, 0), (seed & MASK_32, seed >> 32))[0]
    return (word >> 8) * 2.0**-24


def philox4x32(
    counter: tuple[int, int, int, int], key: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Ten rounds of Philox4x32. Source: Salmon et al., SC 2011, section 3.3 and Random123."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK_32, (p0 >> 32) ^ c3 ^ k1, p0 & MASK_32
        k0, k1 = (k0 + 0x9E3779B9) & MASK_32, (k1 + 0xBB67AE85) & MASK_32
    return c0, c1, c2, c3
