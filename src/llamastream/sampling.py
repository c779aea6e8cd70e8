"""How the next token is drawn: the parameters of one request, checked once.

Knows no wire format. Penalties, bias and temperature are applied in vLLM's order:
repetition, frequency and presence penalty, logit bias, temperature, then top_k, top_p and min_p.
"""

import math
from dataclasses import dataclass

from llamastream.errors import InvalidRequest

MAX_LOGPROBS = 20  # OpenAI's limit for top_logprobs
MAX_LOGIT_BIAS = 300  # entries, vLLM's and OpenAI's practical limit
MAX_SEED = 2**64 - 1

RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's authors may recommend: its generation_config, which a request overrides."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of one sequence. The constructor raises InvalidRequest: an instance is valid.

    `max_tokens` None is as many as the context holds, 0 reads the prompt alone. `seed` keys the
    counter-based random numbers: token n of a sequence depends on (seed, n) and the logits only;
    None draws a seed at admission.
    `temperature` 0 is greedy. `top_k` 0 and `min_p` 0 are off. `logprobs` is the number of
    alternatives reported beside the chosen token, None for no logprobs at all; they are log-softmax
    of the model's raw logits. `stop_token_ids` end the sequence when drawn, and are not drawn among
    the first `min_tokens`. Of `allowed_token_ids` all that is drawn is one, stop tokens included.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    allowed_token_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check("max_tokens", self.max_tokens, 0, 2**31 - 1)
        _check("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens must be <= max_tokens ({self.max_tokens}). Given: {self.min_tokens}.",
                param="min_tokens",
            )
        _check("temperature", self.temperature, 0.0, 100.0)
        _check("top_p", self.top_p, 0.0, 1.0, exclusive_low=True)
        _check("top_k", self.top_k, 0, 2**31 - 1)
        _check("min_p", self.min_p, 0.0, 1.0)
        _check("repetition_penalty", self.repetition_penalty, 0.0, 100.0, exclusive_low=True)
        _check("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _check("seed", self.seed, 0, MAX_SEED)
        if self.logprobs is not None:
            _check("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidRequest(
                f"logit_bias must hold <= {MAX_LOGIT_BIAS} tokens. Given: {len(self.logit_bias)}.",
                param="logit_bias",
            )
        for _, bias in self.logit_bias:
            _check("logit_bias", bias, -100.0, 100.0)

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (
            1.0,
            0.0,
            0.0,
        )


def _check(
    name: str, value: float, low: float, high: float, *, exclusive_low: bool = False
) -> None:
    below = value <= low if exclusive_low else value < low
    if not math.isfinite(value) or below or value > high:
        bound = f"> {low}" if exclusive_low else f">= {low}"
        raise InvalidRequest(f"{name} must be {bound} and <= {high}. Given: {value}.", param=name)
