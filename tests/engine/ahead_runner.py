"""A runner that looks ahead, as a device does, around one that computes at once."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from llamastream.engine.runner import ForwardBatch, Int32, Runner, StepResult


class AheadRunner(Runner):
    """The ids that the host did not know when it began a step are filled in from the step before.

    Each step runs as soon as it comes, which is the earliest that a device could.
    """

    looks_ahead = True

    def __init__(self, runner: Runner) -> None:
        self.num_blocks, self.block_size = runner.num_blocks, runner.block_size
        self.max_model_len, self.vocab_size = runner.max_model_len, runner.vocab_size
        self.num_unknown = 0  # ids below 0 that came, over all steps
        self._runner = runner
        self._drawn: Int32 = np.empty(0, np.int32)

    def run(self, batch: ForwardBatch) -> StepResult:
        return self.start(batch)()

    def start(self, batch: ForwardBatch) -> Callable[[], StepResult]:
        self.num_unknown += int((batch.token_ids < 0).sum())
        sampling = replace(batch.sampling, history_ids=self._known(batch.sampling.history_ids))
        known = replace(batch, token_ids=self._known(batch.token_ids), sampling=sampling)
        result = self._runner.run(known)
        self._drawn = result.token_ids
        return lambda: result

    def close(self) -> None:
        self._runner.close()

    def _known(self, ids: Int32) -> Int32:
        known = ids.copy()
        known[ids < 0] = self._drawn[-1 - ids[ids < 0]]
        return known
