"""Drawing on the device against the NumPy sampler."""

from functools import partial

import numpy as np
import pytest
from paged_steps import int32, sampling_batch
from sampler_cases import (
    CASES,
    ROWS,
    Draw,
    check_draw,
    check_equals,
    check_extremes,
    check_masks,
    make_logits,
)

from llamastream.engine.runner import Float32, ForwardBatch, SamplingBatch, StepResult
from llamastream.errors import InternalError


def draw_on(device: str, logits: Float32, sampling: SamplingBatch) -> StepResult:
    import torch

    from llamastream.engine.gpu.sampler import Sampler
    from llamastream.engine.gpu.step_input import Bucket, Limits, StepInput

    rows, vocab = logits.shape
    limits = Limits(rows, rows, rows, max_model_len=64, block_size=16, query_groups=1)
    step = StepInput(limits, torch.device(device))
    sampler = Sampler(rows, vocab, step.device_arrays, torch.device(device))
    none = np.zeros(rows, np.int32)
    batch = ForwardBatch(
        token_ids=none,
        positions=none,
        slot_mapping=none,
        cu_seqlens_q=int32(range(rows + 1)),
        context_lens=none + 1,
        block_tables=none[:, None],
        logits_indices=int32(range(rows)),
        sampling=sampling,
    )
    step.send(batch, Bucket.of(rows, limits, is_decode=True))
    return sampler.queue(torch.from_numpy(logits).to(device), sampling).result()


@pytest.fixture
def draw(device: str) -> Draw:
    return partial(draw_on, device)


@pytest.mark.parametrize("name", CASES)
def test_draws_what_the_numpy_sampler_draws(name: str, draw: Draw) -> None:
    seeds = np.random.default_rng(1).integers(0, 2**64, ROWS, np.uint64)
    wanted = np.where(np.arange(ROWS) % 8 == 0, 4, -1)
    common = {"seed": seeds, "position": np.arange(ROWS), "num_logprobs": wanted}
    check_draw(draw, make_logits(1), sampling_batch(ROWS, **common, **CASES[name]))


@pytest.mark.parametrize("vocab", [1, 5, 61, 8192, 20000])
def test_draws_the_same_over_any_number_of_tiles(vocab: int, draw: Draw) -> None:
    options = {"temperature": 2.0, "top_p": 0.9, "top_k": 50, "num_logprobs": min(vocab, 3)}
    sampling = sampling_batch(8, seed=np.arange(8, dtype=np.uint64), **options)
    check_draw(draw, make_logits(vocab, rows=8, vocab=vocab), sampling)


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "top_k": 500}])
def test_what_is_masked_is_never_drawn(options: dict[str, float], draw: Draw) -> None:
    check_masks(draw, **options)


def test_a_mask_that_allows_nothing_is_an_error(draw: Draw) -> None:
    masks = np.zeros((1, 32), np.uint32)
    with pytest.raises(InternalError, match="its mask forbids"):
        draw(make_logits(0, rows=2), sampling_batch(2, masks=masks, mask_rows=[-1, 0]))


def test_equals_go_to_the_lowest_id(draw: Draw) -> None:
    check_equals(draw)


def test_as_many_of_equals_as_the_limits_let_in(draw: Draw) -> None:
    """All alike: the first three, or the first seven of twenty, may be drawn, and each is."""
    rows = 64
    top_k, top_p = np.where(np.arange(rows) % 2, 3, 0), np.where(np.arange(rows) % 2, 1, 0.35)
    options = {"temperature": 1.0, "top_k": top_k, "top_p": top_p, "position": np.arange(rows)}
    logits, sampling = np.zeros((rows, 20), np.float32), sampling_batch(rows, **options)
    ids = draw(logits, sampling).token_ids
    assert set(ids[1::2]) == {0, 1, 2} and set(ids[::2]) == set(range(7))
    check_draw(draw, logits, sampling)


def test_extreme_parameters_draw_a_possible_token(draw: Draw) -> None:
    check_extremes(draw)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(bad: float, draw: Draw) -> None:
    logits = make_logits(0, rows=2)
    logits[1, 17] = bad
    with pytest.raises(InternalError, match="row 1"):
        draw(logits, sampling_batch(2))
