"""What is asked: how many requests, when, how long. The same for every server under test.

Knows no servers. Every prompt is different from its second word on, so that no prefix cache can
answer for the model.
"""

import random
from dataclasses import dataclass

from llamastream.bench.errors import BenchError
from llamastream.config import BenchSettings, LoadSettings

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
MIN_REQUESTS = 4  # of a closed loop, so that a lone stream is not judged by one answer
NUM_ARRIVALS = 30  # of an open loop


@dataclass(frozen=True, slots=True)
class Workload:
    """One cell of a benchmark: closed loop (`concurrency` streams, each asking again when it is
    answered) or open loop (`request_rate` arrivals per second, Poisson). Exactly one of the two.

    `background` streams run all the time beside the measured requests, each asking again when it is
    answered.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    num_requests: int
    concurrency: int | None = None
    request_rate: float | None = None
    background: int = 0


# What a lone request and what running streams feel of the others.
FIRST_TOKEN_BESIDE_8 = Workload(
    "first token beside 8 streams", 64, 1, MIN_REQUESTS, concurrency=1, background=8
)
ARRIVALS_BESIDE_32 = Workload(
    "512-token prompts at 2/s beside 32 streams",
    prompt_tokens=512,
    output_tokens=16,  # short: what matters of such a request is its prompt
    num_requests=NUM_ARRIVALS,
    request_rate=2.0,
    background=32,
)


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


def plan(bench: BenchSettings, load: LoadSettings) -> tuple[Workload, ...]:
    """The cells of a benchmark. Raises BenchError if there is none."""
    prompt, output, few = bench.prompt_tokens, bench.output_tokens, MIN_REQUESTS
    cells = [
        Workload(_streams(c), prompt, output, -(-few // c) * c, concurrency=c)
        for c in bench.concurrency
    ]
    if bench.prefill_tokens:
        name = f"prefill {bench.prefill_tokens}"
        cells.append(Workload(name, bench.prefill_tokens, 1, few, concurrency=1))
    cells += [
        Workload(f"{rate:g} requests/s", prompt, output, NUM_ARRIVALS, request_rate=rate)
        for rate in load.request_rates
    ]
    if load.mixed:
        cells += [FIRST_TOKEN_BESIDE_8, ARRIVALS_BESIDE_32]
    if not cells:
        raise BenchError("nothing to measure: give a concurrency or a request rate")
    return tuple(cells)


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"
