"""Sampling parameters are checked once, in their constructor."""

import math

import pytest

from llamastream.errors import InvalidRequest
from llamastream.sampling import MAX_LOGIT_BIAS, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("seed", -1),
        ("seed", 2**64),
        ("logprobs", 21),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_and_value(field: str, value: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field
    assert field in caught.value.message and str(value) in caught.value.message


def test_too_many_or_too_large_biases_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=str(MAX_LOGIT_BIAS)):
        SamplingParams(logit_bias=tuple((i, 1.0) for i in range(MAX_LOGIT_BIAS + 1)))
    with pytest.raises(InvalidRequest, match="logit_bias"):
        SamplingParams(logit_bias=((0, 101.0),))


def test_penalties_are_seen() -> None:
    assert not SamplingParams().has_penalties
    assert SamplingParams(presence_penalty=0.5).has_penalties
    assert SamplingParams(repetition_penalty=1.1).has_penalties
