"""What every sampler must draw as the NumPy one does, and the checks that all of them share."""

from collections.abc import Callable

import numpy as np
from paged_steps import int32, sampling_batch

from llamastream.engine import reference_sampler
from llamastream.engine.runner import Float32, SamplingBatch, StepResult

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


Draw = Callable[[Float32, SamplingBatch], StepResult]


def check_draw(draw: Draw, logits: Float32, sampling: SamplingBatch) -> None:
    wanted = reference_sampler.sample(logits, sampling, return_logits=False)
    found = draw(logits, sampling)
    np.testing.assert_array_equal(found.token_ids, wanted.token_ids)
    np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=2e-6, rtol=1e-6)
    np.testing.assert_array_equal(found.top_ids, wanted.top_ids)
    np.testing.assert_allclose(found.top_logprobs, wanted.top_logprobs, atol=2e-6, rtol=1e-6)


def check_equals(draw: Draw) -> None:
    """Of equal logits the lowest id is drawn, and reported first."""
    logits = np.zeros((4, 100), np.float32)
    logits[:, [37, 90]] = 5.0
    options = {"temperature": [0.0, 1.0, 1.0, 0.0], "top_k": [0, 1, 0, 0]}
    sampling = sampling_batch(4, top_p=[1.0, 1.0, 1e-6, 1.0], num_logprobs=3, **options)
    found = draw(logits, sampling)
    assert found.token_ids.tolist() == [37] * 4
    assert found.top_ids.tolist() == [[37, 90, 0]] * 4


def check_extremes(draw: Draw) -> None:
    """Parameters at the ends of floating point draw a token that exists."""
    logits = make_logits(9, rows=3, scale=50.0)
    options = {"temperature": [1e-38, 100.0, 1e-3], "repetition_penalty": [1e-37, 100.0, 1.0]}
    history = {"history_ids": int32([1, 2, 3, 4]), "history_offsets": int32([0, 2, 4, 4])}
    found = draw(logits, sampling_batch(3, min_p=[0.0, 1.0, 0.0], **options, **history))
    assert ((found.token_ids >= 0) & (found.token_ids < VOCAB)).all()
    assert found.token_ids[2] == logits[2].argmax()


def make_masks(seed: int) -> dict[str, np.ndarray]:
    """For ROWS rows: some without, some that share one, from one allowed id to half of them."""
    rng = np.random.default_rng(seed)
    bits = rng.random((9, -(-VOCAB // 32) * 32)) < 0.5 ** np.arange(1, 10)[:, None]
    bits[np.arange(9), rng.integers(0, VOCAB, 9)] = True
    masks = np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)
    return {"masks": masks, "mask_rows": int32(rng.integers(-1, 9, ROWS))}


def allowed_by(sampling: SamplingBatch, row: int) -> list[int]:
    mask = sampling.masks[sampling.mask_rows[row]]
    ids: list[int] = np.flatnonzero(reference_sampler.allowed(mask, VOCAB)).tolist()
    return ids


def check_masks(draw: Draw, **options: object) -> None:
    """What is forbidden is never drawn, whatever bias it has; of one allowed id the log-probability
    is that of the raw logits."""
    masks = make_masks(11)
    first, *_ = (row for row in range(ROWS) if masks["mask_rows"][row] >= 0)
    bias = {"bias_ids": int32([0] * ROWS), "bias_values": np.full(ROWS, 100, np.float32)}
    bias["bias_offsets"] = int32(range(ROWS + 1))
    sampling = sampling_batch(ROWS, num_logprobs=2, **masks, **bias, **options)
    found = draw(make_logits(3), sampling)
    for row in range(ROWS):
        if sampling.mask_rows[row] >= 0:
            assert found.token_ids[row] in allowed_by(sampling, row)
    plain = draw(make_logits(3), sampling_batch(ROWS, num_logprobs=2))
    np.testing.assert_array_equal(found.top_logprobs, plain.top_logprobs)
    assert np.isfinite(found.logprobs[first])


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
    "masks": make_masks(4),
    "hot masks": {"temperature": 2.0, **make_masks(5)},
    "top_k over what is allowed": {"temperature": 1.0, "top_k": 300, **make_masks(6)},
    "masks and all else": {
        "temperature": 1.3,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.03,
        "presence_penalty": 0.5,
        **make_history(7),
        **make_masks(7),
    },
    "negative penalties": {"presence_penalty": -2.0, "repetition_penalty": 0.3, **make_history(3)},
}
