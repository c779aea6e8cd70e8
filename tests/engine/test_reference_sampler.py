"""The rules of docs/sampling.md, one by one, on distributions small enough to see through."""

from collections import Counter

import numpy as np
import pytest

from llamastream.engine.batch import Draws, SamplingRows
from llamastream.engine.reference_sampler import philox4x32, sample, uniform
from llamastream.engine.runner import SamplingBatch
from llamastream.engine.sequence import Sequence
from llamastream.sampling import SamplingParams

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32))


def rows(seqs: list[Sequence]) -> SamplingBatch:
    """One each, in which a token is drawn."""
    return SamplingRows().update(Draws(np.arange(len(seqs), dtype=np.int32), seqs, None))


def draw(
    params: SamplingParams,
    *,
    logits: np.ndarray = LOGITS,
    position: int = 0,
    prompt_ids: tuple[int, ...] = (0,),
    output_ids: tuple[int, ...] | None = None,
) -> int:
    """The token of one row; without `output_ids`, `position` neutral outputs are assumed."""
    outputs = (0,) * position if output_ids is None else output_ids
    ids = np.array([*prompt_ids, *outputs], np.int32)
    seq = Sequence("", ids, len(prompt_ids), len(ids), params, seed=params.seed or 0)
    batch = rows([seq])
    return int(sample(logits[None], batch, return_logits=False).token_ids[0])


def draws(params: SamplingParams, count: int = 2000) -> Counter[int]:
    return Counter(draw(params, position=position) for position in range(count))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # The known answers published with Random123 (kat_vectors, philox4x32 10).
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == words


def test_the_uniform_number_takes_24_bits_of_the_first_word() -> None:
    assert uniform(0, 0) == (0x6627E8D5 >> 8) / 2**24
    # The key is the seed's low word, then its high word.
    word = philox4x32((5, 0, 0, 0), (0x89ABCDEF, 0x01234567))[0]
    assert uniform(0x0123456789ABCDEF, 5) == (word >> 8) / 2**24


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = np.array([1, 3, 2, 3], np.float32)
    assert draw(SamplingParams(temperature=0), logits=logits) == 1


def test_frequencies_follow_the_probabilities() -> None:
    counts = draws(SamplingParams(seed=1))
    expected = np.exp(LOGITS) * 2000
    chi_square = sum((counts[i] - expected[i]) ** 2 / expected[i] for i in range(5))
    assert chi_square < 18.5  # 4 degrees of freedom, 0.1 %; the seed is fixed


def test_temperature_sharpens_and_flattens() -> None:
    cold = draws(SamplingParams(seed=1, temperature=0.5))[1]
    hot = draws(SamplingParams(seed=1, temperature=2.0))[1]
    squares, roots = np.exp(LOGITS) ** 2, np.exp(LOGITS) ** 0.5
    assert cold / 2000 == pytest.approx(squares[1] / squares.sum(), abs=0.03)
    assert hot / 2000 == pytest.approx(roots[1] / roots.sum(), abs=0.03)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(seed=1, top_k=2), {1, 3}),
        (SamplingParams(seed=1, top_p=0.39), {1}),
        (SamplingParams(seed=1, top_p=0.41), {1, 3}),
        (SamplingParams(seed=1, top_p=0.71), {1, 3, 4}),
        (SamplingParams(seed=1, top_p=1e-6), {1}),
        (SamplingParams(seed=1, min_p=0.37), {1, 3, 4}),
        (SamplingParams(seed=1, min_p=1.0), {1}),
        # top_p is a share of what top_k kept: 0.4 / 0.7 is below 0.6, so both stay.
        (SamplingParams(seed=1, top_k=2, top_p=0.6), {1, 3}),
        (SamplingParams(seed=1, top_k=2, top_p=0.55), {1}),
    ],
)
def test_only_kept_candidates_are_drawn(params: SamplingParams, kept: set[int]) -> None:
    assert set(draws(params, 300)) == kept


def test_top_k_keeps_the_lowest_ids_among_equals() -> None:
    logits = np.arange(1000, dtype=np.float32) % 2  # enough for a sort to shuffle equals
    params = SamplingParams(seed=3, top_k=2)
    assert {draw(params, logits=logits, position=i) for i in range(100)} == {1, 3}


def test_candidates_are_walked_in_rising_id_order() -> None:
    u = uniform(9, 4)
    probs = np.exp(LOGITS)
    expected = int(np.searchsorted(np.cumsum(probs / probs.sum()), u, side="right"))
    assert draw(SamplingParams(seed=9), position=4) == expected


def test_the_running_sum_must_exceed_the_number() -> None:
    """These seeds give exactly 0.5 and exactly 0 as their first number."""
    assert uniform(515707, 0) == 0.5 and uniform(12121362, 0) == 0.0
    assert draw(SamplingParams(seed=515707), logits=np.zeros(2, np.float32)) == 1
    impossible_first = np.array([-200.0, 0.0, 0.0], np.float32)
    assert draw(SamplingParams(seed=12121362), logits=impossible_first) == 1


def test_repetition_penalty_counts_prompt_and_output_once() -> None:
    logits = np.array([2.0, 1.9, -1.0, 0.5], np.float32)
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert draw(params, logits=logits, prompt_ids=(0, 0, 0)) == 1
    assert draw(params, logits=logits, prompt_ids=(3,), output_ids=(0, 1)) == 0  # 1.0, 0.95
    negative = np.array([-1.0, -1.5, -3.0, -3.0], np.float32)
    assert draw(params, logits=negative, prompt_ids=(0,)) == 1


def test_frequency_penalty_counts_outputs_only() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    params = SamplingParams(temperature=0, frequency_penalty=0.4)
    assert draw(params, logits=logits, prompt_ids=(0,) * 9, output_ids=(0, 0)) == 0
    assert draw(params, logits=logits, output_ids=(0, 0, 0)) == 1


def test_presence_penalty_counts_outputs_once() -> None:
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    params = SamplingParams(temperature=0, presence_penalty=0.9)
    assert draw(params, logits=logits, output_ids=(0,) * 9) == 0
    params = SamplingParams(temperature=0, presence_penalty=1.1)
    assert draw(params, logits=logits, prompt_ids=(0,), output_ids=()) == 0
    assert draw(params, logits=logits, output_ids=(0,)) == 1


def test_bias_is_added() -> None:
    params = SamplingParams(temperature=0, logit_bias=((2, 100.0),))
    assert draw(params) == 2


def test_rows_do_not_see_each_other() -> None:
    params = [
        SamplingParams(seed=1, logprobs=2),
        SamplingParams(seed=2, top_k=2, repetition_penalty=1.5),
        SamplingParams(temperature=0, logit_bias=((4, 50.0),), logprobs=0),
        SamplingParams(seed=3, frequency_penalty=1.0),
    ]
    seqs = [
        Sequence("", np.array([i, 1, 3, 3], np.int32), 2, 4, p, seed=i)
        for i, p in enumerate(params)
    ]
    logits = np.tile(LOGITS, (4, 1))
    together = sample(logits, rows(seqs), return_logits=False)
    for row, seq in enumerate(seqs):
        single = sample(logits[:1], rows([seq]), return_logits=False)
        assert together.token_ids[row] == single.token_ids[0]
        assert np.array_equal(together.logprobs[row], single.logprobs[0], equal_nan=True)


def test_logprobs_are_of_the_raw_logits_and_padded() -> None:
    params = [
        SamplingParams(temperature=0, logit_bias=((4, 50.0),), logprobs=2),
        SamplingParams(temperature=0),
        SamplingParams(temperature=0, logprobs=3),
    ]
    seqs = [Sequence("", np.zeros(2, np.int32), 1, 1, p, seed=0) for p in params]
    logits = np.tile(LOGITS, (3, 1))
    result = sample(logits, rows(seqs), return_logits=True)
    assert result.token_ids.tolist() == [4, 1, 1]
    assert result.logprobs[0] == pytest.approx(np.log(0.15))
    assert np.isnan(result.logprobs[1])
    assert result.top_ids.tolist() == [[1, 3, -1], [-1, -1, -1], [1, 3, 4]]
    assert result.top_logprobs[2].tolist() == pytest.approx(np.log([0.4, 0.3, 0.15]).tolist())
    assert result.logits is not None and np.array_equal(result.logits, logits)
