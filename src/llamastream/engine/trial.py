"""One step before anybody asks for one: whether the weights give numbers at all."""

import numpy as np

from llamastream.engine.batch import BatchBuilder
from llamastream.engine.runner import Runner
from llamastream.engine.scheduler import Scheduled
from llamastream.engine.sequence import Sequence
from llamastream.errors import InternalError, ModelError
from llamastream.sampling import SamplingParams


def try_weights(runner: Runner) -> None:
    """Compute a step of the single id 0, in the runner's first block, which nobody uses yet.

    Raises ModelError for weights whose numbers overflow: a file can be damaged and well formed.
    """
    ids, sampling = np.zeros(2, np.int32), SamplingParams(temperature=0, max_tokens=1)
    seq = Sequence("trial", ids, 1, 1, sampling, seed=0, block_table=[0])
    try:
        runner.run(BatchBuilder(runner.block_size).build([Scheduled(seq, 1)]))
    except InternalError as error:
        raise ModelError(
            f"The model cannot compute: {error.message} Fetch its files again, or name another."
        ) from error
