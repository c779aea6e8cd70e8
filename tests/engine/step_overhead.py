"""How long a step takes in Python: run `python tests/engine/step_overhead.py`.

A runner that answers at once leaves schedule, batch and update. The last line is JSON.
"""

import json
import statistics
import time

import numpy as np
from driver import make_request

from llamastream.config import EngineConfig
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import ForwardBatch, Runner, StepResult

NUM_SEQS, NUM_STEPS, WARM_UP = 32, 2000, 100
PROMPT_LEN = 512


class NullRunner(Runner):
    """Computes nothing: always token 5."""

    num_blocks, block_size, max_model_len, vocab_size = 8192, 32, 8192, 49152

    def run(self, batch: ForwardBatch) -> StepResult:
        rows = len(batch.logits_indices)
        none = np.empty((rows, 0), np.float32)
        tokens = np.full(rows, 5, np.int32)
        return StepResult(tokens, np.zeros(rows, np.float32), none.astype(np.int32), none, None)

    def close(self) -> None:
        pass


def measure(**sampling: object) -> list[float]:
    """Microseconds per step with NUM_SEQS decoding sequences."""
    engine = LLMEngine(NullRunner(), EngineConfig(max_num_seqs=NUM_SEQS, speculation="off"))
    for i in range(NUM_SEQS):
        engine.add(make_request(str(i), [i] * PROMPT_LEN, **sampling))
    while engine.status().num_waiting or len(engine.step()) < NUM_SEQS:
        engine.step()
    times = []
    for _ in range(WARM_UP + NUM_STEPS):
        start = time.perf_counter()
        events = engine.step()
        times.append((time.perf_counter() - start) * 1e6)
        assert len(events) == NUM_SEQS
    return times[WARM_UP:]


def main() -> None:
    result = {}
    for name, sampling in {"plain": {}, "penalties": {"presence_penalty": 0.5}}.items():
        times = measure(max_tokens=NUM_STEPS + 3 * WARM_UP + NUM_SEQS, **sampling)
        quantiles = statistics.quantiles(times, n=100)
        print(f"{name}: median {quantiles[49]:.0f} us, p99 {quantiles[98]:.0f} us per step")
        result[name] = {"median_us": round(quantiles[49], 1), "p99_us": round(quantiles[98], 1)}
    print(json.dumps({"num_seqs": NUM_SEQS, **result}))


if __name__ == "__main__":
    main()
