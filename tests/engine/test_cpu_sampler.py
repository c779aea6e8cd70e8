"""The C++ sampler against the plain NumPy one; its random numbers against published ones."""

from functools import partial

import numpy as np
import pytest
from paged_steps import sampling_batch
from sampler_cases import (
    CASES,
    ROWS,
    VOCAB,
    check_draw,
    check_equals,
    check_extremes,
    check_masks,
    make_history,
    make_logits,
)

from llamastream.engine import _core
from llamastream.engine.runner import Float32, SamplingBatch, StepResult

ISAS = _core.available_isas()


def draw(logits: Float32, sampling: SamplingBatch, isa: str = "auto") -> StepResult:
    rows, width = len(logits), max(int(sampling.num_logprobs.max(initial=0)), 0)
    result = StepResult(
        np.empty(rows, np.int32),
        np.empty(rows, np.float32),
        np.full((rows, width), -1, np.int32),
        np.full((rows, width), np.nan, np.float32),
        None,
    )
    _core.sample(logits, sampling, result, isa=isa)
    return result


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_draws_what_the_numpy_sampler_draws(name: str, seed: int) -> None:
    logits = make_logits(seed)
    seeds = np.random.default_rng(seed).integers(0, 2**64, ROWS, np.uint64)
    common = {"seed": seeds, "position": np.arange(ROWS), "num_logprobs": 4}
    sampling = sampling_batch(ROWS, **common, **CASES[name])
    check_draw(draw, logits, sampling)


def test_a_row_with_a_target_tells_of_it_and_draws_nothing() -> None:
    targets = np.where(np.arange(ROWS) % 3, np.arange(ROWS) * 7, -1)
    options = {"num_logprobs": 4, "targets": targets, "temperature": 1.0, "top_k": 3}
    check_draw(draw, make_logits(5), sampling_batch(ROWS, **options, **make_history(5)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", [1, 5, 16, 61, 257, 1000])
def test_every_instruction_set_draws_the_same_bits(isa: str, vocab: int) -> None:
    logits = make_logits(vocab, vocab=vocab)
    options = {"temperature": 1.1, "top_p": 0.95, "num_logprobs": min(vocab, 20)}
    sampling = sampling_batch(ROWS, seed=np.arange(ROWS, dtype=np.uint64), **options)
    wanted, found = draw(logits, sampling, "portable"), draw(logits, sampling, isa)
    for one, other in zip(wanted[:4], found[:4], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [name for name in CASES if "masks" in name])
def test_every_instruction_set_masks_the_same(isa: str, name: str) -> None:
    logits, common = make_logits(5), {"num_logprobs": 3, "position": np.arange(ROWS)}
    sampling = sampling_batch(ROWS, **common, **CASES[name])
    wanted, found = draw(logits, sampling, "portable"), draw(logits, sampling, isa)
    for one, other in zip(wanted[:4], found[:4], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}, {"temperature": 3.0, "top_k": 500}])
def test_what_is_masked_is_never_drawn(options: dict[str, float]) -> None:
    check_masks(draw, **options)


def test_a_mask_that_allows_nothing_is_an_error() -> None:
    words = np.zeros((1, -(-VOCAB // 32)), np.uint32)
    words[0, -1] = 1 << 31  # past the vocabulary
    sampling = sampling_batch(2, masks=words, mask_rows=[-1, 0])
    with pytest.raises(RuntimeError, match="row 1"):
        draw(make_logits(0, rows=2), sampling)


def test_masks_of_another_width_are_refused() -> None:
    sampling = sampling_batch(2, masks=np.ones((1, 3), np.uint32), mask_rows=[0, 0])
    with pytest.raises(ValueError, match="must hold 32 words a row"):
        draw(make_logits(0, rows=2), sampling)
    sampling = sampling_batch(2, masks=np.ones((1, 32), np.uint32), mask_rows=[0, 1])
    with pytest.raises(ValueError, match="mask_rows must be rows of masks"):
        draw(make_logits(0, rows=2), sampling)


def test_frequencies_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    rows = 20_000
    sampling = sampling_batch(rows, temperature=1.0, position=np.arange(rows))
    ids = draw(np.tile(logits, (rows, 1)), sampling).token_ids
    counts = np.bincount(ids, minlength=4) / rows
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.01)


@pytest.mark.parametrize("isa", ISAS)
def test_equals_go_to_the_lowest_id(isa: str) -> None:
    check_equals(partial(draw, isa=isa))


def test_rows_without_logprobs_report_none() -> None:
    found = draw(make_logits(0, rows=3), sampling_batch(3, num_logprobs=[-1, 0, 2]))
    assert np.isnan(found.logprobs[0]) and np.isfinite(found.logprobs[1:]).all()
    assert found.top_ids[0].tolist() == found.top_ids[1].tolist() == [-1, -1]
    assert (found.top_ids[2] >= 0).all()
    assert np.isnan(found.top_logprobs[:2]).all()


def test_extreme_parameters_draw_a_possible_token() -> None:
    check_extremes(draw)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 17, VOCAB - 1])
def test_logits_that_are_not_finite_are_an_error(bad: float, at: int) -> None:
    logits = make_logits(0, rows=2)
    logits[1, at] = bad
    with pytest.raises(RuntimeError, match="row 1"):
        draw(logits, sampling_batch(2))


@pytest.mark.parametrize(
    "counter, key, words",
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_numbers(
    counter: list[int], key: list[int], words: list[int]
) -> None:
    """Source: kat_vectors of Random123 1.14, philox4x32 with 10 rounds."""
    assert _core.philox4x32(counter, key) == words
