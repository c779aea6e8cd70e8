"""Which tokens a grammar lets come next, computed beside the steps that draw them.

Knows no grammar: a `Constraint` is asked. A mask is a function of a sequence's ids, so whatever is
kept of it may be thrown away, and a sequence whose mask is late sits a step out without any other
token for it. The engine waits for masks a moment, for that costs less than a step of fewer
sequences; it waits at all only where it has nothing else to compute.

    engine thread    step n ─ ask ─ wait a moment ─ step n + 1, of those that have their masks ─ ...
    mask threads              └ append, mask, forced tokens, a mask behind each ┘
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llamastream.engine.runner import UInt32
from llamastream.engine.sequence import Guide, Sequence
from llamastream.errors import ChatError, InternalError
from llamastream.types import Constraint

logger = logging.getLogger(__name__)

NUM_THREADS = 2
NICENESS = 10  # a mask that takes long leaves the processor to the steps of others
# Nobody else's step waits longer than this for a mask, once for each that turns out to be slow.
MOMENT_S = 0.002


class Draft(NamedTuple):
    """Tokens that may come next. `is_forced`: none but these can."""

    token_ids: list[int]
    is_forced: bool


class _Job(NamedTuple):
    seq: Sequence
    guide: Guide
    num_tokens: int  # of the sequence, all known
    num_seqs: int  # that decode beside it


Drafter = Callable[[Sequence, Constraint, int, int], Draft]
"""(sequence, its constraint behind its first n tokens, n, sequences that decode) -> draft."""


class Masking:
    """Belongs to the engine thread, but for `wake`."""

    def __init__(self, draft: Drafter) -> None:
        self._draft = draft
        self._guided: dict[Sequence, Guide] = {}
        self._changed = threading.Condition()
        # Under the condition's lock:
        self._jobs: deque[_Job] = deque()
        self._slow_jobs: deque[_Job] = deque()  # of those whose last mask took long
        self._awaited: dict[Guide, float] = {}  # until when the engine waits for it
        self._failed: list[tuple[Sequence, ChatError]] = []
        self._num_pending = 0
        self._num_done = self._num_seen = 0  # masks; those of which the engine knows
        self._is_woken = self._is_closed = False
        self._threads: list[threading.Thread] = []

    def add(self, seq: Sequence, num_seqs: int) -> None:
        """A new sequence; one without a grammar is none of our business."""
        if seq.guide is None:
            return
        if not self._threads:
            self._start()
        self._guided[seq] = seq.guide
        self._ask([seq], num_seqs)

    def remove(self, seq: Sequence) -> None:
        """It has ended. Idempotent."""
        guide = self._guided.pop(seq, None)
        if guide is not None:
            with self._changed:
                self._awaited.pop(guide, None)

    def ask(self, num_seqs: int) -> None:
        """Have masks computed for all that drew a token. `num_seqs` decode in the next step."""
        if self._guided:
            self._ask([seq for seq in self._guided if not seq.num_unknown_tokens], num_seqs)

    def wait_a_moment(self) -> list[tuple[Sequence, ChatError]]:
        """Until the masks that were asked for are there, but for those that are slow. Returns the
        sequences that cannot go on, and why; each once."""
        if not self._guided:
            return []
        with self._changed:
            while self._awaited:
                left_s = max(self._awaited.values()) - time.perf_counter()
                if left_s <= 0 or not self._changed.wait(left_s):
                    for guide in self._awaited:
                        guide.is_slow = True
                    self._awaited.clear()
            failed, self._failed = self._failed, []
            self._num_seen = self._num_done
        return [(seq, error) for seq, error in failed if seq in self._guided]

    def wait(self, before: Callable[[], None] | None, *, is_reading: bool = False) -> None:
        """Until a mask is there that was not after `wait_a_moment`, or somebody wakes us, who does
        so when what is being read is there.

        Not at all where nobody needs either. `before` is called first.
        """
        if not self._guided and not is_reading:
            return
        if before is not None:
            before()
        with self._changed:
            while not self._is_woken and (
                self._num_done == self._num_seen if self._num_pending else is_reading
            ):
                self._changed.wait()
            self._is_woken = False

    def wake(self) -> None:
        """End a `wait`, the present or the next one. From any thread."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        for number in range(NUM_THREADS):
            thread = threading.Thread(
                target=self._work, args=(number > 0,), name=f"masks-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _ask(self, seqs: list[Sequence], num_seqs: int) -> None:
        until_s = time.perf_counter() + MOMENT_S
        with self._changed:
            for seq in seqs:
                guide = seq.guide
                assert guide is not None
                if guide.num_asked == seq.num_tokens or guide.is_over:
                    continue
                guide.num_asked = seq.num_tokens
                jobs = self._slow_jobs if guide.is_slow else self._jobs
                jobs.append(_Job(seq, guide, seq.num_tokens, num_seqs))
                self._num_pending += 1
                if not guide.is_slow:
                    self._awaited[guide] = until_s
            self._changed.notify_all()

    def _work(self, takes_slow: bool) -> None:
        """A mask thread. The one that does not take slow jobs is there for all others."""
        if sys.platform == "linux":  # elsewhere that is the whole process's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._changed:
                while not (job := self._next_job(takes_slow)) and not self._is_closed:
                    self._changed.wait()
            if job is None:
                return
            start_s, error = time.perf_counter(), None
            try:
                self._compute(job)
            except ChatError as problem:
                error = problem
            except BaseException:  # also what a panic of native code is raised as
                logger.exception("a mask failed, request_id=%s", job.seq.request_id)
                error = InternalError("The grammar of this answer failed.")
            with self._changed:
                job.guide.is_slow = time.perf_counter() - start_s > MOMENT_S
                if error is None:
                    job.guide.num_known = job.num_tokens
                else:
                    job.guide.is_over = True
                    self._failed.append((job.seq, error))
                self._awaited.pop(job.guide, None)
                self._num_pending -= 1
                self._num_done += 1
                if not self._awaited:
                    self._changed.notify_all()

    def _next_job(self, takes_slow: bool) -> _Job | None:
        if self._is_closed:
            return None
        if self._jobs:
            return self._jobs.popleft()
        return self._slow_jobs.popleft() if takes_slow and self._slow_jobs else None

    def _compute(self, job: _Job) -> None:
        """The masks behind the sequence's last token and behind each draft. Raises ChatError."""
        seq, guide = job.seq, job.guide
        if guide.constraint is None:
            guide.constraint, guide.num_consumed = guide.grammar.start(), seq.num_prompt_tokens
        constraint = guide.constraint
        constraint.append(seq.token_ids[guide.num_consumed : job.num_tokens].tolist())
        guide.num_consumed = job.num_tokens
        masks = [_words(constraint)]
        guide.drafts, guide.is_forced = self._draft(seq, constraint, job.num_tokens, job.num_seqs)
        if guide.drafts:
            fork = constraint.fork()
            for token_id in guide.drafts:
                fork.append([token_id])
                masks.append(_words(fork))
        guide.masks = masks


def _words(constraint: Constraint) -> UInt32:
    return np.frombuffer(constraint.mask(), "<u4").astype(np.uint32, copy=False)
