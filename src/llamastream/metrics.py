"""Counters, histograms and gauges of one service, in Prometheus' text format.

Each instance has a registry of its own: nothing is global, so that tests and several services in
one process do not add up.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from llamastream.types import EngineStatus

CONTENT_TYPE = CONTENT_TYPE_LATEST
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class KeyCounts(Protocol):
    """What is known of one API key."""

    num_requests: int  # in progress
    num_prompt_tokens: int  # since the start
    num_output_tokens: int


ByKey = Callable[[], Iterable[tuple[str, KeyCounts]]]


class Metrics:
    """What the service counts. `status` and `by_key`, by the names of keys, are asked at each
    scrape."""

    def __init__(self, status: Callable[[], EngineStatus], by_key: ByKey) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "llamastream_requests", "Requests by outcome", ["outcome"], registry=registry
        )
        self.prompt_tokens = Counter(
            "llamastream_prompt_tokens", "Prompt tokens of finished requests", registry=registry
        )
        self.cached_tokens = Counter(
            "llamastream_cached_prompt_tokens",
            "Prompt tokens of finished requests that were found in the prefix cache",
            registry=registry,
        )
        self.num_output_tokens = 0  # a lock per step would be a tenth of a token's way
        self.ttft = Histogram(
            "llamastream_time_to_first_token_seconds",
            "From admission to a request's first token",
            buckets=TTFT_BUCKETS_S,
            registry=registry,
        )
        self.tpot = Histogram(
            "llamastream_time_per_output_token_seconds",
            "Mean time between the tokens of one choice, once per request",
            buckets=TPOT_BUCKETS_S,
            registry=registry,
        )
        self.readers = Gauge(
            "llamastream_stored_readers",
            "Readers of stored answers",
            registry=registry,
        )
        self.taken_over = Counter(
            "llamastream_taken_over",
            "Stored answers that another server, or an earlier start, had begun",
            registry=registry,
        )
        self.fenced = Counter(
            "llamastream_fenced",
            "Times that other servers took this one for dead",
            registry=registry,
        )
        self._watch("running", "Requests in the running batch", lambda: status().num_running)
        self._watch("waiting", "Requests in the queue", lambda: status().num_waiting)
        self._watch("kv_usage", "Share of KV cache blocks in use", lambda: _kv_usage(status()))
        registry.register(_DiskCounters(status))
        registry.register(_TokenCounters(status, lambda: self.num_output_tokens))
        registry.register(_KeyCounters(by_key))

    def render(self) -> bytes:
        """The exposition of all metrics, as /metrics serves it."""
        return generate_latest(self._registry)

    def _watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"llamastream_{name}", description, registry=self._registry)
        gauge.set_function(read)


class _TokenCounters(Collector):
    """What is counted on a token's way."""

    def __init__(self, status: Callable[[], EngineStatus], num_output_tokens: Callable[[], int]):
        self._status = status
        self._num_output_tokens = num_output_tokens

    def collect(self) -> Iterator[CounterMetricFamily]:
        status = self._status()
        yield CounterMetricFamily(
            "llamastream_output_tokens", "Tokens generated", self._num_output_tokens()
        )
        yield CounterMetricFamily(
            "llamastream_drafted_tokens",
            "Tokens computed on the guess that text repeats (--speculation)",
            status.num_drafted_tokens,
        )
        yield CounterMetricFamily(
            "llamastream_accepted_tokens",
            "Of these, tokens that were drawn: each saved most of a step",
            status.num_accepted_tokens,
        )


class _DiskCounters(Collector):
    """Of the cache on disk (--kv-disk-gib)."""

    def __init__(self, status: Callable[[], EngineStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        disk = self._status().disk
        name = "llamastream_kv_disk"
        yield GaugeMetricFamily(f"{name}_bytes", "KV blocks on disk", disk.num_bytes)
        yield GaugeMetricFamily(f"{name}_max_bytes", "Most that there may be", disk.max_bytes)
        yield CounterMetricFamily(
            f"{name}_failures", "Errors of the file system", disk.num_failures
        )
        blocks = CounterMetricFamily(
            f"{name}_blocks",
            "Blocks read, written, not written (dropped), and found damaged",
            labels=["what"],
        )
        blocks.add_metric(["read"], disk.num_read)
        blocks.add_metric(["written"], disk.num_written)
        blocks.add_metric(["dropped"], disk.num_dropped)
        blocks.add_metric(["damaged"], disk.num_damaged)
        yield blocks


class _KeyCounters(Collector):
    def __init__(self, by_key: ByKey) -> None:
        self._by_key = by_key

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily(
            "llamastream_key_requests", "Answers in progress, by API key", labels=["key"]
        )
        prompts = CounterMetricFamily(
            "llamastream_key_prompt_tokens", "Prompt tokens taken in, by API key", labels=["key"]
        )
        outputs = CounterMetricFamily(
            "llamastream_key_output_tokens", "Tokens generated, by API key", labels=["key"]
        )
        for name, counts in self._by_key():
            running.add_metric([name], counts.num_requests)
            prompts.add_metric([name], counts.num_prompt_tokens)
            outputs.add_metric([name], counts.num_output_tokens)
        yield from (running, prompts, outputs)


def _kv_usage(status: EngineStatus) -> float:
    return 1 - status.num_free_blocks / status.num_blocks if status.num_blocks else 0.0
