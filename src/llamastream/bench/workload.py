"""What is asked: how many requests, when, how long. The same for every server under test.

Knows no servers. Every prompt is different from its second word on, so that no prefix cache can
answer for the model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llamastream.bench.errors import BenchError

# One token each, with a space before, in the vocabularies of Llama 2, Llama 3, Mistral and SmolLM.
WORDS = (
    "time people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl moment air teacher force"
).split()
FIRST_WORD = "The"


@dataclass(frozen=True, slots=True)
class Workload:
    """One cell of a benchmark: closed loop (`concurrency` streams, each asking again when it is
    answered) or open loop (`request_rate` arrivals per second, Poisson). Exactly one of the two.

    `background` streams of `background_output_tokens` run all the time beside the measured
    requests, each asking again when it is answered.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    num_requests: int
    concurrency: int | None = None
    request_rate: float | None = None
    background: int = 0
    background_prompt_tokens: int = 64
    background_output_tokens: int = 512
    seed: int = 0  # of the arrival times: the same in every round

    def __post_init__(self) -> None:
        for field in ("prompt_tokens", "output_tokens", "num_requests"):
            if getattr(self, field) < 1:
                raise BenchError(f"{field} must be >= 1. Given: {getattr(self, field)}.")
        if (self.concurrency is None) == (self.request_rate is None):
            raise BenchError("a workload has either a concurrency or a request_rate")
        if self.concurrency is not None and self.concurrency < 1:
            raise BenchError(f"concurrency must be >= 1. Given: {self.concurrency}.")
        if self.request_rate is not None and self.request_rate <= 0:
            raise BenchError(f"request_rate must be > 0. Given: {self.request_rate}.")


def poisson_arrivals(rate: float, count: int, *, seed: int) -> list[float]:
    """`count` arrival times in seconds from the start, the first at 0, `rate` per second."""
    generator = random.Random(seed)
    times_s = [0.0]
    while len(times_s) < count:
        times_s.append(times_s[-1] + generator.expovariate(rate))
    return times_s


def make_prompts(count: int, num_words: int, *, seed: str) -> list[str]:
    """`count` prompts of `num_words` words, the same for the same seed."""
    generator = random.Random(seed)
    return [
        " ".join([FIRST_WORD, *generator.choices(WORDS, k=num_words - 1)]) for _ in range(count)
    ]


def sweep(
    concurrencies: Sequence[int], prompt_tokens: int, output_tokens: int, *, waves: int
) -> list[Workload]:
    """One closed loop per concurrency, each stream asking `waves` times."""
    return [
        Workload(
            f"{c} streams" if c > 1 else "1 stream", prompt_tokens, output_tokens, c * waves, c
        )
        for c in concurrencies
    ]
