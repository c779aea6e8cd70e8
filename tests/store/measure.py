"""What the journal costs: `python tests/store/measure.py [URL]`. Prints one table; docs/store.md.

Each line is a run of STREAMS streams at some steps per second: the time from `append` until its
future is done, on a loop that does nothing else, and the processor time of the process per step.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from llamastream.generation.log import Log
from llamastream.records import Drawn, NewResponse, Outcome, Status
from llamastream.sampling import SamplingParams
from llamastream.store.database import Durability, sqlite_url
from llamastream.store.store import Store
from llamastream.types import TokenLogprob

STREAMS = 32
SECONDS = 5.0


async def run(url: str, durability: Durability, steps_per_s: float, logprobs: int = 0) -> None:
    top = tuple(TokenLogprob(k, b"", -1.0 - k) for k in range(logprobs))
    logprob = TokenLogprob(0, b"", -0.5, top) if logprobs else None
    async with await Store.open(url, durability=durability) as store:
        ids = [f"resp_{time.time_ns()}_{k}" for k in range(STREAMS)]
        for id in ids:
            new = NewResponse(id, {}, range(100), SamplingParams(seed=1))
            await store.responses.create(new, scope="")
        logs = [Log() for _ in ids]
        times: list[float] = []
        start, cpu = time.perf_counter(), time.process_time()
        num_steps = int(SECONDS * steps_per_s)
        for step in range(num_steps):
            await asyncio.sleep(max(0.0, start + step / steps_per_s - time.perf_counter()))
            for k, log in enumerate(logs):
                log.append(0, "", 20_000 + k, logprob)
            drawn = [Drawn(id, log, step + 1) for id, log in zip(ids, logs, strict=True)]
            begin = time.perf_counter()
            refused = await store.append(drawn)
            times.append(time.perf_counter() - begin)
            assert not refused
        took, cpu = time.perf_counter() - start, time.process_time() - cpu
        for id in ids:
            await store.responses.finish(id, Outcome(Status.COMPLETED, {}))
    times.sort()
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(
        f"{durability:7} {num_steps / took:7.0f} steps/s {logprobs:3} logprobs  "
        f"p50 {p50 * 1e3:6.3f} ms  p99 {p99 * 1e3:7.3f} ms  max {times[-1] * 1e3:7.2f} ms  "
        f"cpu {cpu / num_steps * 1e6:5.0f} us/step"
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = sys.argv[1] if len(sys.argv) > 1 else sqlite_url(Path(folder))
        for durability in ("off", "normal", "full"):
            for steps_per_s in (30.0, 1000.0):
                await run(url, durability, steps_per_s)
        await run(url, "normal", 30.0, logprobs=20)


if __name__ == "__main__":
    asyncio.run(main())
