"""`serve` with steps as long as a large model's, so that streams live for seconds on a machine that
is not worn out by them; and with one request that ends the process.

python -m tests.soak.paced serve ...
"""

import os
import signal
import time

from llamastream.cli.main import run
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.runner import ForwardBatch, StepResult

STEP_S = 0.02
POISON_SEED = 666_666  # of a request that ends its process, before it has got a token
POISON_S = 0.5  # later, when it is stored


compute = CpuRunner.run


def paced(runner: CpuRunner, batch: ForwardBatch) -> StepResult:
    time.sleep(STEP_S)
    if POISON_SEED in batch.sampling.seed:
        time.sleep(POISON_S)
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(runner, batch)


if __name__ == "__main__":
    CpuRunner.run = paced  # type: ignore[assignment, method-assign]
    run()
