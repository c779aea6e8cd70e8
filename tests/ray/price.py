"""What Ray Serve costs: its ingress for a token, and two replicas with one thread each beside one
with two.

make .make/ray && .venv-ray/bin/python -m tests.ray.price
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from llamastream.settings import default_data_dir
from tests.doubles.postgres import Postgres
from tests.ray.cluster import run_service, running_cluster

NUM_STREAMS, NUM_TOKENS, ROUNDS = 8, 128, 3
KINDS = ((2, 1), (1, 2))  # replicas, and threads of each


def main() -> None:
    with Postgres.running() as postgres, running_cluster() as url:
        for num_replicas, num_cpus in KINDS:
            run_service(
                model="demo",
                store=postgres.url,
                num_replicas=num_replicas,
                num_cpus=num_cpus,
                data_dir=default_data_dir(),
                speculation="off",
            )
            measured = [measure(url) for _ in range(ROUNDS + 1)][1:]  # the first one warms
            rates, costs = zip(*measured, strict=True)
            print(
                f"replicas={num_replicas} threads={num_cpus} streams={NUM_STREAMS} "
                f"tokens/s={statistics.median(rates):.0f} "
                f"ingress_us_per_token={statistics.median(costs):.0f} rounds={ROUNDS}",
                flush=True,
            )


def measure(url: str) -> tuple[float, float]:
    """Tokens per second in all, and microseconds of the ingress for each."""
    ingress = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "haproxy"]
    cpu_s = _cpu_s(ingress)
    began = time.perf_counter()
    with (
        httpx.Client(base_url=url, timeout=300.0) as client,
        ThreadPoolExecutor(NUM_STREAMS) as pool,
    ):
        counts = list(pool.map(lambda number: _read(client, number), range(NUM_STREAMS)))
    seconds = time.perf_counter() - began
    return sum(counts) / seconds, (_cpu_s(ingress) - cpu_s) / sum(counts) * 1e6


def _cpu_s(processes: list[psutil.Process]) -> float:
    times = [one.cpu_times() for one in processes if one.is_running()]
    return sum(one.user + one.system for one in times)


def _read(client: httpx.Client, number: int) -> int:
    """One stored stream to its end: its tokens, an event each."""
    body = {
        "model": "demo",
        "input": f"Tell me story {number}.",
        "max_output_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
    }
    with client.stream("POST", "/v1/responses", json=body) as reply:
        reply.raise_for_status()
        return sum(line == "event: response.output_text.delta" for line in reply.iter_lines())


if __name__ == "__main__":
    main()
