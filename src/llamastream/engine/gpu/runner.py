"""The GPU runner: one copy to the device, one recorded graph, one copy back per step.

Knows shapes, memory and graphs, and no arithmetic. A row's result is the same bits whatever shares
its step: the kernels see to that.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch

from llamastream.config import EngineConfig, LlamaConfig
from llamastream.engine.gpu.forward import Cache, Forward
from llamastream.engine.gpu.sampler import Draws, Sampler, every_option
from llamastream.engine.gpu.step_input import Bucket, Limits, StepInput, bucket_sizes
from llamastream.engine.gpu.weights import Weights, load_weights
from llamastream.engine.limits import check_max_model_len, choose_num_blocks
from llamastream.engine.memory import available_bytes
from llamastream.engine.rope import rope_tables
from llamastream.engine.runner import ForwardBatch, Progress, Runner, StepResult
from llamastream.engine.speculation import MAX_DRAFT
from llamastream.errors import InternalError, ModelError

logger = logging.getLogger(__name__)

CACHE_SHARE = 0.9  # of the memory that is free once all else has its place
INTERPRETER_CACHE_SHARE = 0.1  # there it is the host's memory
MIN_PREFILL_TOKENS = 16  # smallest size of a step that is not decode alone

Tensors = Callable[[], Iterable[tuple[str, Any]]]


class GpuRunner(Runner):
    """On one CUDA device, or under Triton's interpreter on the host's memory.

    Not safe for two threads at once. After a step that failed, the next one first builds cache and
    graphs anew.
    """

    looks_ahead = True

    def __init__(
        self, config: LlamaConfig, engine: EngineConfig, weights: Weights, device: torch.device
    ) -> None:
        self.vocab_size = config.vocab_size
        self.block_size = engine.block_size
        self.max_model_len = engine.max_model_len or config.max_position_embeddings
        self.device = device
        # What a decode step reads at least: the roofline's two numbers.
        self.weight_bytes = weights.nbytes - weights.embedding.nbytes
        values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        self.kv_bytes_per_token = values * weights.embedding.dtype.itemsize
        self._config, self._engine = config, engine
        self._limits = Limits(
            max_tokens=engine.max_num_batched_tokens,
            max_seqs=engine.max_num_seqs,
            max_rows=min(engine.max_num_seqs + MAX_DRAFT, engine.max_num_batched_tokens),
            max_model_len=self.max_model_len,
            block_size=engine.block_size,
            query_groups=config.num_attention_heads // config.num_key_value_heads,
        )
        self._kind = weights.embedding.dtype
        self._input = StepInput(self._limits, device)
        step = self._input.device_arrays
        cos, sin = (torch.from_numpy(t).to(device) for t in rope_tables(config, self.max_model_len))
        self._sampler = Sampler(self._limits.max_rows, config.vocab_size, step, device)
        self._forward: Forward | None = Forward(
            config, weights, self._limits, (cos, sin), step, self._sampler.drawn
        )
        self._decode_sizes = bucket_sizes(engine.max_num_seqs)
        self._prefill_sizes = [
            size
            for size in bucket_sizes(engine.max_num_batched_tokens)
            if size >= MIN_PREFILL_TOKENS or size == engine.max_num_batched_tokens
        ]
        self._last: tuple[Bucket, ForwardBatch] | None = None
        self._graphs: dict[Bucket, torch.cuda.CUDAGraph] = {}
        self._cache: Cache | None = self._new_cache(1)
        if device.type == "cuda":
            self.queue_every_size()
            torch.cuda.synchronize()
        self._cache = None
        self.num_blocks = self._choose_num_blocks()
        self._has_failed = False
        self._build()
        logger.info(
            "gpu runner device=%s dtype=%s weights_mb=%d blocks=%d max_model_len=%d graphs=%d",
            device,
            engine.dtype,
            weights.nbytes // 2**20,
            self.num_blocks,
            self.max_model_len,
            len(self._graphs),
        )

    @classmethod
    def load(
        cls,
        config: LlamaConfig,
        engine: EngineConfig,
        tensors: Tensors,
        *,
        device: str,
        progress: Progress | None = None,
    ) -> Self:
        """Store `tensors` on the device as they come, then make room for the cache.

        tensors: gives (Hugging Face name, array or tensor) pairs. device: "cuda:0"; "cpu" under
        Triton's interpreter. Raises ModelError for tensors or limits that do not fit.
        """
        place = torch.device(device)
        if place.type == "cuda":
            torch.cuda.set_device(place)
        check_max_model_len(config, engine)
        try:
            weights = load_weights(config, engine.dtype, tensors(), place, progress=progress)
            return cls(config, engine, weights, place)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"The model does not fit {device} in {engine.dtype}: {error} Use --dtype int8 or "
                "int4, or lower --max-num-seqs and --max-num-batched-tokens."
            ) from error

    def run(self, batch: ForwardBatch) -> StepResult:
        return self.start(batch)()

    def start(self, batch: ForwardBatch) -> Callable[[], StepResult]:
        if self._forward is None:
            raise InternalError("The runner is closed.")
        with self._watched():
            if self._has_failed:
                self._rebuild()
            draws = self._start(self._forward, batch)

        def finish() -> StepResult:
            with self._watched():
                return draws.result()

        return finish

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Raise InternalError for whatever goes wrong on the device, and remember that it did."""
        try:
            yield
        except RuntimeError as error:  # torch's and Triton's; out of memory is one of them
            self._has_failed = True
            raise InternalError(f"{self.device} failed: {error}") from error
        except InternalError:
            self._has_failed = True
            raise

    def repeat_last_step(self) -> None:
        """Queue the last step again, without waiting: what the device does, for measurements."""
        if self._forward is not None and self._last is not None:
            self._queue(self._forward, *self._last)

    def close(self) -> None:
        if self.device.type == "cuda" and not self._has_failed:
            torch.cuda.synchronize()  # the last step may still be under way
        self._graphs.clear()
        self._forward = self._cache = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _start(self, forward: Forward, batch: ForwardBatch) -> Draws:
        num_rows = len(batch.logits_indices)
        max_seqs, max_rows = self._limits.max_seqs, self._limits.max_rows
        if len(batch.context_lens) > max_seqs or num_rows > max_rows:
            raise InternalError(
                f"A step must hold <= {max_seqs} sequences (max_num_seqs) and <= {max_rows} rows "
                f"that sample. Given: {len(batch.context_lens)} and {num_rows}."
            )
        bucket = self._bucket(batch)
        self._input.send(batch, bucket)
        return self._queue(forward, bucket, batch)

    def _queue(self, forward: Forward, bucket: Bucket, batch: ForwardBatch) -> Draws:
        """Queue a step that has been sent, and the way back of its result."""
        graph = self._graphs.get(bucket)
        if graph is not None:
            graph.replay()
        else:
            assert self._cache is not None
            forward.body(bucket, self._cache)
        self._last = bucket, batch
        logits = forward.head(len(batch.logits_indices))
        return self._sampler.queue(logits, batch.sampling, return_logits=batch.return_logits)

    def _bucket(self, batch: ForwardBatch) -> Bucket:
        num_tokens, num_seqs = len(batch.token_ids), len(batch.context_lens)
        is_decode = num_tokens == num_seqs
        sizes = self._decode_sizes if is_decode else self._prefill_sizes
        if num_tokens > sizes[-1]:
            raise InternalError(f"A step must hold <= {sizes[-1]} tokens. Given: {num_tokens}.")
        size = min(size for size in sizes if size >= num_tokens)
        return Bucket.of(size, self._limits, is_decode=is_decode)

    def _buckets(self) -> list[Bucket]:
        """Every size of step."""
        kinds = ((self._prefill_sizes, False), (self._decode_sizes, True))
        return [
            Bucket.of(size, self._limits, is_decode=is_decode)
            for sizes, is_decode in kinds
            for size in sizes
        ]

    def queue_every_size(self) -> None:
        """Queue each kernel that a step may need, with every set of constants: compiles them."""
        assert self._forward is not None and self._cache is not None
        for bucket in self._buckets():
            self._forward.body(bucket, self._cache)
        for num_rows in [*self._decode_sizes, self._limits.max_rows]:
            self._sampler.queue(
                self._forward.head(num_rows), every_option(num_rows, self.vocab_size)
            )

    def _build(self) -> None:
        """Make the cache and record a graph for every size of step."""
        self._cache = self._new_cache(self.num_blocks)
        if self.device.type != "cuda":
            return
        assert self._forward is not None
        for bucket in self._buckets():
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._forward.body(bucket, self._cache)
            self._graphs[bucket] = graph

    def _rebuild(self) -> None:
        """Start over with an empty cache. Raises RuntimeError where CUDA's context is lost."""
        logger.warning("gpu runner starts over on %s", self.device)
        self._graphs.clear()
        self._cache = None
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        self._build()
        self._has_failed = False

    def _new_cache(self, num_blocks: int) -> Cache:
        return Cache.empty(
            self._config, num_blocks, self.block_size, kind=self._kind, device=self.device
        )

    def _choose_num_blocks(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            budget = int(torch.cuda.mem_get_info(self.device)[0] * CACHE_SHARE)
        else:
            budget = int(available_bytes() * INTERPRETER_CACHE_SHARE)
        block_bytes = self.kv_bytes_per_token * self.block_size
        return choose_num_blocks(self._config, self._engine, block_bytes, budget)
