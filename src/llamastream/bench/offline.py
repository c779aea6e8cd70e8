"""An engine in this process, without HTTP: what the runner and the scheduler do by themselves.

Knows no text: prompts are random token ids, all different, so that no prefix cache can answer.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llamastream.bench.console import progress
from llamastream.bench.errors import BenchError
from llamastream.bench.machine import Bounds
from llamastream.bench.roofline import Roofline
from llamastream.bench.summary import Spread, spread
from llamastream.config import BenchSettings, EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import ForwardBatch, Runner, StepResult
from llamastream.sampling import SamplingParams
from llamastream.types import Failed, GenerationRequest, Token

WARM_UP_TOKENS = 8


class DecodeRound(NamedTuple):
    """So many streams, decoding together, once.

    `overhead_us` is what a step costs outside the runner (scheduling, batch, events), in the
    median. The shares are of the bounds measured in the same round. `tokens_per_step`, of one
    stream, are above 1 where drafts were right: answers to random prompts repeat themselves, so
    compare runners with speculation off.
    """

    decode_tok_s: float
    output_tok_s: float  # over the whole time, prefill included
    step_p50_ms: float
    step_p99_ms: float
    overhead_us: float
    memory_share: float
    compute_share: float
    tokens_per_step: float


@dataclass(slots=True)
class OfflineReport:
    settings: BenchSettings
    decode: dict[int, list[DecodeRound]] = field(default_factory=dict)  # by concurrency
    prefill_tok_s: list[float] = field(default_factory=list)
    prefill_share: list[float] = field(default_factory=list)  # of the computing bound
    bounds: list[Bounds] = field(default_factory=list)  # one per round

    def decode_spread(self, streams: int, name: str) -> Spread:
        return spread([getattr(round_, name) for round_ in self.decode[streams]])


def run_offline(
    runner: Runner,
    config: EngineConfig,
    roofline: Roofline,
    settings: BenchSettings,
    *,
    bounds: Callable[[], Bounds],
) -> OfflineReport:
    """Measure all cells, round after round. Raises BenchError; the runner stays the caller's."""
    if max(settings.concurrency) > config.max_num_seqs:
        raise BenchError(
            f"concurrency must be <= max_num_seqs ({config.max_num_seqs}), or streams wait. "
            f"Given: {max(settings.concurrency)}.",
            param="concurrency",
        )
    bench = _Bench(runner, config, settings)
    report = OfflineReport(settings, {streams: [] for streams in settings.concurrency})
    progress("warm up")
    bench.decode(max(settings.concurrency), WARM_UP_TOKENS)
    for number in range(settings.rounds):
        report.bounds.append(bounds())
        for streams in settings.concurrency:
            progress(f"round {number + 1}/{settings.rounds}: streams at once: {streams}")
            steps = bench.decode(streams, settings.output_tokens)
            report.decode[streams].append(_decode_round(steps, roofline, report.bounds[-1]))
        if settings.prefill_tokens:
            progress(f"round {number + 1}/{settings.rounds}: prefill {settings.prefill_tokens}")
            speed = bench.prefill()
            report.prefill_tok_s.append(speed)
            report.prefill_share.append(roofline.prompt_share(speed, report.bounds[-1]))
    return report


class _Step(NamedTuple):
    """One engine step. `start_s` and `end_s` are time.perf_counter()."""

    start_s: float
    end_s: float
    runner_s: float  # of it, inside the runner
    num_tokens: int  # drawn
    context_lens: tuple[int, ...]  # of the sequences in it
    is_decode: bool  # every stream drew tokens, and none its first or had ended before


class _TimedRunner(Runner):
    """Passes everything on, and keeps how long the last step took and what it attended to."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.num_blocks = runner.num_blocks
        self.block_size = runner.block_size
        self.max_model_len = runner.max_model_len
        self.vocab_size = runner.vocab_size
        self.elapsed_s = 0.0
        self.context_lens: tuple[int, ...] = ()

    def run(self, batch: ForwardBatch) -> StepResult:
        start_s = time.perf_counter()
        result = self._runner.run(batch)
        self.elapsed_s = time.perf_counter() - start_s
        self.context_lens = tuple(batch.context_lens.tolist())
        return result

    def close(self) -> None:
        self._runner.close()


class _Bench:
    def __init__(self, runner: Runner, config: EngineConfig, settings: BenchSettings) -> None:
        self._runner = _TimedRunner(runner)
        self._engine = LLMEngine(self._runner, config)
        self._settings = settings
        self._random = random.Random(0)
        self._num_requests = 0

    def decode(self, streams: int, output_tokens: int) -> list[_Step]:
        """Run `streams` requests from their prompts to their last token."""
        for _ in range(streams):
            self._add(self._settings.prompt_tokens, output_tokens)
        return list(self._steps(streams))

    def prefill(self) -> float:
        """Prompt tokens per second of one request, alone, until its first token is drawn."""
        self._add(self._settings.prefill_tokens, 1)
        steps = list(self._steps(1))
        return self._settings.prefill_tokens / (steps[-1].end_s - steps[0].start_s)

    def _add(self, prompt_tokens: int, output_tokens: int) -> None:
        self._num_requests += 1
        vocabulary = range(self._runner.vocab_size)
        self._engine.add(
            GenerationRequest(
                request_id=f"bench-{self._num_requests}",
                prompt_ids=self._random.choices(vocabulary, k=prompt_tokens),
                sampling=SamplingParams(
                    max_tokens=output_tokens,
                    temperature=0.0,
                    seed=self._num_requests,
                ),
            )
        )

    def _steps(self, streams: int) -> Iterator[_Step]:
        num_started = 0
        while self._engine.has_work:
            start_s = time.perf_counter()
            events = self._engine.step()
            end_s = time.perf_counter()
            for event in events:
                if isinstance(event, Failed):
                    raise BenchError(f"the engine failed: {event.error.message}")
            tokens = [event for event in events if isinstance(event, Token)]
            all_before = num_started == streams
            num_started += sum(token.position == 0 for token in tokens)
            is_decode = all_before and len({token.request_id for token in tokens}) == streams
            yield _Step(
                start_s,
                end_s,
                self._runner.elapsed_s,
                len(tokens),
                self._runner.context_lens,
                is_decode,
            )


def _decode_round(steps: list[_Step], roofline: Roofline, bounds: Bounds) -> DecodeRound:
    decoding = [step for step in steps if step.is_decode]
    if not decoding:
        raise BenchError(
            "the streams never decoded together: the first had ended before the last had begun. "
            "Raise output_tokens."
        )
    times_s = np.array([step.end_s - step.start_s for step in decoding])
    overheads_s = times_s - np.array([step.runner_s for step in decoding])
    contexts = np.mean([step.context_lens for step in decoding], axis=0).tolist()
    memory, compute = roofline.shares(contexts, float(times_s.mean()), bounds)
    num_tokens = sum(step.num_tokens for step in decoding)
    p50, p99 = np.percentile(times_s, (50, 99)) * 1e3
    return DecodeRound(
        decode_tok_s=num_tokens / float(times_s.sum()),
        output_tok_s=sum(step.num_tokens for step in steps) / (steps[-1].end_s - steps[0].start_s),
        step_p50_ms=float(p50),
        step_p99_ms=float(p99),
        overhead_us=float(np.median(overheads_s)) * 1e6,
        memory_share=memory,
        compute_share=compute,
        tokens_per_step=num_tokens / sum(len(step.context_lens) for step in decoding),
    )
