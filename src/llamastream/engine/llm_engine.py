"""The engine on one thread: schedule, run, update. Knows no text, no HTTP and no event loop.

The invariant: every request that was added ends in exactly one Finished or Failed, also when the
runner raises.

A runner that looks ahead is given step n + 1 before the result of step n is taken:

    runner         step n              | step n + 1              | step n + 2
    this thread    start n + 1, take n | start n + 2, take n + 1 |

A sequence that turns out to have ended in step n has a row in step n + 1 for nothing. Its blocks
may be given away at once, for steps are computed in the order in which they were begun.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from llamastream.config import EngineConfig
from llamastream.engine.admission import Admission
from llamastream.engine.batch import BatchBuilder
from llamastream.engine.block_manager import BlockManager
from llamastream.engine.disk_cache import DiskCache
from llamastream.engine.masking import Masking
from llamastream.engine.runner import Runner, StepResult
from llamastream.engine.scheduler import Scheduled, Scheduler
from llamastream.engine.sequence import Sequence
from llamastream.engine.speculation import Speculation
from llamastream.engine.spill import Spill
from llamastream.errors import ChatError, ConfigError, EngineDead, InternalError
from llamastream.types import (
    EngineState,
    EngineStatus,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptTokens,
    Token,
)

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3  # a runner that fails this often without a good step will not recover


class _Begun(NamedTuple):
    """A step whose result is still to be taken."""

    scheduled: list[Scheduled]
    result: Callable[[], StepResult]
    started_s: float


class LLMEngine:
    """Owns the runner and everything that decides what it computes."""

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        *,
        speculation: Speculation | None = None,
        disk: DiskCache | None = None,
    ) -> None:
        """`disk`: where blocks of stored answers are kept, and found again; closed by `close`."""
        if config.max_num_batched_tokens < config.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens must be >= max_num_seqs ({config.max_num_seqs}), so that "
                f"no running sequence starves. Given: {config.max_num_batched_tokens}.",
                param="max_num_batched_tokens",
            )
        self._runner = runner
        self._config = config
        self.admission = Admission(
            config,
            max_model_len=_max_model_len(runner, config),
            vocab_size=runner.vocab_size,
            takes_targets=not runner.looks_ahead,
        )
        self._speculation = speculation or Speculation(config)
        self.masking = Masking(self._speculation.guided)
        self._sequences: dict[str, Sequence] = {}  # all that have not ended
        self._events: list[Event] = []  # since the last step returned
        self._num_failures = 0
        self._empty_cache()
        self._spill = Spill(runner, disk, self._blocks, self.masking.wake)

    @property
    def is_dead(self) -> bool:
        return self._num_failures >= MAX_FAILURES_IN_A_ROW

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to compute or to report."""
        return bool(self._sequences or self._events or self._in_flight)

    def add(self, request: GenerationRequest) -> None:
        """Queue a request. Raises InvalidRequest, ContextLengthExceeded, Overloaded, EngineDead."""
        if self.is_dead:
            raise EngineDead("The engine stopped after repeated failures. Restart the server.")
        self.enqueue(self.admission.admit(request))

    def enqueue(self, seq: Sequence) -> None:
        """Queue what `admission` let in. Resumed output that was already complete ends at once."""
        self._sequences[seq.request_id] = seq
        reason = seq.finish_reason()
        if reason is not None:
            self._end(seq, _finished(seq, reason))
            return
        num_running = len(self._scheduler.running)
        if not self._spill.fetch(seq, num_running=num_running):
            self._scheduler.add(seq)
        self.masking.add(seq, num_running + 1)

    def cancel(self, request_id: str) -> None:
        """End a request and free its blocks now; the next step reports it. Unknown ids: no-op."""
        seq = self._sequences.get(request_id)
        if seq is not None:
            self._withdraw(seq)
            self._end(seq, _finished(seq, FinishReason.CANCELLED))

    def step(self, before_run: Callable[[], None] | None = None) -> list[Event]:
        """Compute one step and return what happened since the last one; [] when idle.

        `before_run` is called when the step is prepared and Python has nothing to do until it is
        computed. A failing runner never raises here: it fails all requests and empties the cache.
        """
        try:
            self._advance(before_run)
        except Exception:
            # Whatever it was, the cache may be half written: nobody's next token can be trusted.
            logger.exception("step failed with %d requests", len(self._sequences))
            self._num_failures += 1
            self.fail_all(InternalError("The model failed while computing. Try again."))
        events, self._events = self._events, []
        return events

    def fail_all(self, error: ChatError) -> None:
        """End every request by `error` and empty the cache; the next step reports it.

        The result of a step in flight is never taken.
        """
        for seq in list(self._sequences.values()):
            self._end(seq, Failed(seq.request_id, error))
        self._empty_cache()
        self._spill.reset(self._blocks)

    def status(self) -> EngineStatus:
        return EngineStatus(
            state=EngineState.DEAD if self.is_dead else EngineState.READY,
            max_model_len=self.admission.max_model_len,
            vocab_size=self.admission.vocab_size,
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting,
            num_blocks=self._blocks.num_blocks,
            num_free_blocks=self._blocks.num_free_blocks,
            num_drafted_tokens=self._speculation.num_drafted,
            num_accepted_tokens=self._speculation.num_accepted,
            disk=self._spill.status(),
        )

    def check_integrity(self) -> None:
        """Assert that no block is lost, shared by mistake or held for a request that ended."""
        alive = list(self._scheduler)
        waiting = [*alive, *self._spill]
        assert sorted(map(id, waiting)) == sorted(map(id, self._sequences.values()))
        self._scheduler.check_integrity()
        self._blocks.check_integrity(alive, self._spill.held)

    def close(self) -> None:
        self.masking.close()
        self._spill.close()
        self._runner.close()

    def _empty_cache(self) -> None:
        """All blocks free and no prefix cached, whatever state the old objects are in."""
        self._in_flight: _Begun | None = None
        self._blocks = BlockManager(
            self._runner.num_blocks,
            self._runner.block_size,
            enable_prefix_caching=self._config.enable_prefix_caching,
        )
        self._scheduler = Scheduler(self._blocks, self._config)
        self._batch_builder = BatchBuilder(self._runner.block_size)

    def _advance(self, before_run: Callable[[], None] | None) -> None:
        """Begin a step, take the result of the one in flight, and the new one's unless it may be
        in flight from now on."""
        begun = self._begin(before_run)
        self._land()
        if begun is not None:
            if self._runner.looks_ahead and not self._speculation.may_draft(len(begun.scheduled)):
                self._in_flight = _foresee(begun)
            else:
                self._update(begun)
        self.masking.ask(max(len(self._scheduler.running), 1))

    def _begin(self, before_run: Callable[[], None] | None) -> _Begun | None:
        if self._in_flight and self._scheduler.may_preempt():
            self._land()  # only sequences whose tokens are known may be preempted
        for seq in self._spill.fetched():
            self._scheduler.add(seq)
        for seq, error in self.masking.wait_a_moment():
            self._withdraw(seq)
            self._end(seq, Failed(seq.request_id, error))
        scheduled = self._speculation.extend(
            self._scheduler.schedule(), self._blocks, keep_free=self._num_kept_free
        )
        if not scheduled:
            if not self._in_flight and not self._events:
                self.masking.wait(before_run, is_reading=self._spill.is_reading)
            return None
        batch = self._batch_builder.build(scheduled)
        logger.debug("step seqs=%d tokens=%d", len(scheduled), len(batch.token_ids))
        if before_run is not None:
            before_run()
        started_s = time.perf_counter()
        return _Begun(scheduled, self._runner.start(batch), started_s)

    def _land(self) -> None:
        begun, self._in_flight = self._in_flight, None
        if begun is not None:
            self._update(begun)

    def _update(self, begun: _Begun) -> None:
        """Wait for a step's result and report it."""
        result = begun.result()
        self._num_failures = 0
        if not self._runner.looks_ahead:  # there, a step's time is not its own
            num_tokens = sum(num for _, num in begun.scheduled)
            pace = self._scheduler.pace
            pace.took(time.perf_counter() - begun.started_s, num_tokens)
            self._speculation.fixed_rows = pace.fixed_rows
        token_ids = result.token_ids.tolist()
        row = 0
        for seq, num_tokens in begun.scheduled:
            num_computed = seq.num_computed_tokens + num_tokens
            num_drawn = num_computed - seq.num_tokens + 1 + seq.num_unknown_tokens
            reason = None
            if not seq.block_table:  # it ended when this step had begun
                row += max(num_drawn, 0)
                continue
            if num_scored := len(seq.rows_to_score(num_tokens)):
                self._events.append(_prompt_tokens(seq, result, range(row, row + num_scored)))
                seq.num_scored_tokens += num_scored
                row += num_scored
            if num_drawn == 1:
                reason = self._take(seq, token_ids[row], result, row)
                row += 1
            elif num_drawn > 1:
                reason = self._take_drafted(seq, token_ids[row : row + num_drawn], result, row)
                row += num_drawn
            # What was computed for a wrong draft is written over.
            seq.num_computed_tokens = min(num_computed, seq.num_tokens - 1)
            num_filled = self._blocks.register(seq)
            self._spill.offer(seq, num_filled=num_filled, is_last=reason is not None)
            if reason is not None:
                self._withdraw(seq)
                self._end(seq, _finished(seq, reason))

    def _take(
        self, seq: Sequence, token_id: int, result: StepResult, row: int
    ) -> FinishReason | None:
        """Append one draw and report it."""
        if seq.sampling.max_tokens != 0:
            position, num_logprobs = seq.num_output_tokens, seq.sampling.logprobs
            self._events.append(_token(seq, position, token_id, num_logprobs, result, row))
        seq.append(token_id)
        return seq.finish_reason()

    def _take_drafted(
        self, seq: Sequence, drawn: list[int], result: StepResult, row: int
    ) -> FinishReason | None:
        """Take one draw, and each further one while the draft before it was right."""
        is_guess = not seq.num_expected_tokens
        num_drafted = len(drawn) - 1
        drafts = seq.token_ids[seq.num_tokens : seq.num_tokens + num_drafted].tolist()
        for num_right, token_id in enumerate(drawn):
            reason = self._take(seq, token_id, result, row + num_right)
            if reason is not None or num_right == num_drafted or token_id != drafts[num_right]:
                break
        if is_guess:
            self._speculation.learn(seq, num_drafted, num_right)
        return reason

    @property
    def _num_kept_free(self) -> int:
        """Blocks that drafts must leave: all while somebody waits, else one for each sequence."""
        scheduler = self._scheduler
        return self._blocks.num_blocks if scheduler.num_waiting else len(scheduler.running)

    def _withdraw(self, seq: Sequence) -> None:
        """Take its place in the queue from it, and its blocks."""
        if not self._spill.forget(seq):
            self._scheduler.remove(seq)

    def _end(self, seq: Sequence, event: Finished | Failed) -> None:
        del self._sequences[seq.request_id]
        self.masking.remove(seq)
        self.admission.release(seq.request_id)
        self._events.append(event)


def _foresee(begun: _Begun) -> _Begun:
    """Count the tokens of a step as computed, and one more where it draws one, still unknown.

    Returns the step with no tokens left to count.
    """
    row = 0
    for seq, num_tokens in begun.scheduled:
        seq.num_computed_tokens += num_tokens
        if seq.num_computed_tokens == seq.num_tokens:
            seq.expect(row)
            row += 1
    return begun._replace(scheduled=[Scheduled(seq, 0) for seq, _ in begun.scheduled])


def _finished(seq: Sequence, reason: FinishReason) -> Finished:
    return Finished(
        seq.request_id,
        reason,
        seq.num_prompt_tokens,
        seq.num_cached_tokens or 0,
        0 if seq.sampling.max_tokens == 0 else seq.num_output_tokens,
        seq.queue_s,
    )


def _max_model_len(runner: Runner, config: EngineConfig) -> int:
    """The longest sequence that is sure to get through: bound by model, option and cache."""
    bound = min(runner.max_model_len, runner.num_blocks * runner.block_size)
    return bound if config.max_model_len is None else min(bound, config.max_model_len)


def _prompt_tokens(seq: Sequence, result: StepResult, rows: range) -> PromptTokens:
    """The prompt's next tokens, which these rows are about."""
    first, num_logprobs = seq.num_scored_tokens + 1, seq.prompt_logprobs
    tokens = (
        _token(seq, first + k, int(result.token_ids[row]), num_logprobs, result, row)
        for k, row in enumerate(rows)
    )
    return PromptTokens(seq.request_id, tuple(tokens))


def _token(
    seq: Sequence,
    position: int,
    token_id: int,
    num_logprobs: int | None,
    result: StepResult,
    row: int,
) -> Token:
    if num_logprobs is None:
        return Token(seq.request_id, position, token_id)
    top = zip(
        result.top_ids[row, :num_logprobs].tolist(),
        result.top_logprobs[row, :num_logprobs].tolist(),
        strict=True,
    )
    logprob = float(result.logprobs[row])
    return Token(seq.request_id, position, token_id, logprob, tuple(top))
