"""What is asked: how many requests, when, how long. The same for every server under test.

Knows no servers. Every prompt is different from its second word on, so that no prefix cache can
answer for the model.
"""

import random
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
MIN_REQUESTS = 4  # of a closed loop, so that a lone stream is not judged by one answer
ARRIVAL_OUTPUT_TOKENS = 16  # short: what matters of such a request is its prompt


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


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells of a benchmark, from few numbers. An empty tuple or 0 leaves its cells out.

    `beside`: time to first token of a lone request while so many streams run.
    `arrivals_beside`: what so many streams feel of long prompts that arrive all the time.
    """

    concurrency: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 64
    output_tokens: int = 128
    prefill_tokens: int = 512
    request_rates: tuple[float, ...] = ()
    num_arrivals: int = 30  # per request rate
    beside: tuple[int, ...] = ()
    arrivals_beside: tuple[int, ...] = ()
    arrivals_rate: float = 2.0
    arrivals_prompt_tokens: int = 512

    def workloads(self) -> tuple[Workload, ...]:
        prompt, output, few = self.prompt_tokens, self.output_tokens, MIN_REQUESTS
        cells = [
            Workload(_streams(c), prompt, output, -(-few // c) * c, concurrency=c)
            for c in self.concurrency
        ]
        if self.prefill_tokens:
            name = f"prefill {self.prefill_tokens}"
            cells.append(Workload(name, self.prefill_tokens, 1, few, concurrency=1))
        cells += [
            Workload(f"{rate:g} requests/s", prompt, output, self.num_arrivals, request_rate=rate)
            for rate in self.request_rates
        ]
        cells += [
            Workload(
                f"first token beside {_streams(n)}", prompt, 1, few, concurrency=1, background=n
            )
            for n in self.beside
        ]
        cells += [
            Workload(
                f"{self.arrivals_prompt_tokens}-token prompts at {self.arrivals_rate:g}/s"
                f" beside {_streams(n)}",
                self.arrivals_prompt_tokens,
                ARRIVAL_OUTPUT_TOKENS,
                self.num_arrivals,
                request_rate=self.arrivals_rate,
                background=n,
            )
            for n in self.arrivals_beside
        ]
        if not cells:
            raise BenchError("nothing to measure: give a concurrency or a request rate")
        return tuple(cells)


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"
