"""The CPU runner: weights packed once, then each step in one call of the C++ core.

Knows shapes, memory and threads, and no arithmetic. A row's result is the same bits whatever shares
its step: the core sees to that.
"""

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from llamastream.config import DType, EngineConfig, LlamaConfig
from llamastream.engine import _core
from llamastream.engine.limits import check_max_model_len, choose_num_blocks
from llamastream.engine.memory import available_bytes
from llamastream.engine.rope import rope_tables
from llamastream.engine.runner import (
    Float32,
    ForwardBatch,
    Progress,
    Runner,
    StepResult,
    UInt8,
)
from llamastream.errors import InternalError, ModelError
from llamastream.spec import StoredTensor, tensor_specs

logger = logging.getLogger(__name__)

GROUP = 32  # weights that share a scale at least: the core's kGroup
DTYPES: tuple[DType, ...] = ("int8", "int4", "float32")
BLOCK_MULTIPLE = 16  # positions the core reads at once: its kLanes
CACHE_SHARE = 0.25  # of the available memory, at most, when nobody says how large the cache may be

Tensors = Callable[[], Iterable[tuple[str, Float32 | StoredTensor]]]


class Limits(NamedTuple):
    """What the core makes room for."""

    num_blocks: int
    block_size: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    threads: int


class CpuRunner(Runner):
    """Runner on the C++ core. Not safe for two threads at once.

    Every instruction set gives the same bits.
    """

    def __init__(
        self,
        config: LlamaConfig,
        engine: EngineConfig,
        weights: _core.Weights,
    ) -> None:
        self.vocab_size = config.vocab_size
        self.block_size = engine.block_size
        self.max_model_len = engine.max_model_len or config.max_position_embeddings
        check_limits(config, engine)
        self.num_blocks = _num_blocks(config, engine)
        self.block_bytes = block_bytes(config, engine)
        limits = Limits(
            self.num_blocks,
            self.block_size,
            engine.max_num_batched_tokens,
            engine.max_num_seqs,
            self.max_model_len,
            num_threads(engine),
        )
        cos, sin = rope_tables(config, self.max_model_len)
        self._model: _core.Model | None = _core.Model(
            weights, config, limits, cos, sin, isa=engine.isa
        )
        logger.info(
            "cpu runner dtype=%s isa=%s threads=%d weights_mb=%d blocks=%d max_model_len=%d",
            engine.dtype,
            self._model.isa,
            limits.threads,
            weights.nbytes // 2**20,
            self.num_blocks,
            self.max_model_len,
        )

    @classmethod
    def load(
        cls,
        config: LlamaConfig,
        engine: EngineConfig,
        tensors: Tensors,
        *,
        image: Path | None = None,
        key: str = "",
        progress: Progress | None = None,
    ) -> Self:
        """Read the packed image, or pack `tensors` and write it for the next start.

        tensors: gives (Hugging Face name, float32 array or StoredTensor) pairs; called only without
        a usable image.
        key: names the weights the image must have been made from, such as their file's digest.
        Raises ModelError for missing, extra or misshapen tensors and limits that cannot be met.
        """
        check_limits(config, engine)
        _num_blocks(config, engine)  # refused before the work of packing
        weights = None
        if image is not None and image.exists():
            try:
                weights = _core.open_weights(
                    str(image),
                    key,
                    tensor_specs(config),
                    precision=engine.dtype,
                    threads=num_threads(engine),
                )
            except RuntimeError as error:
                logger.warning("packed weights are built anew: %s", error)
        if weights is None:
            weights = _pack_to(config, engine, tensors, image=image, key=key, progress=progress)
        return cls(config, engine, weights)

    @property
    def isa(self) -> str:
        return self._open_model().isa

    def run(self, batch: ForwardBatch) -> StepResult:
        model = self._open_model()
        num_rows, width = len(batch.logits_indices), batch.sampling.most_logprobs
        token_ids = np.empty(num_rows, np.int32)
        logprobs = np.empty(num_rows, np.float32)
        top_ids = np.empty((num_rows, width), np.int32)
        top_logprobs = np.empty((num_rows, width), np.float32)
        if width:
            top_ids.fill(-1)
            top_logprobs.fill(np.nan)
        logits: Float32 | None = None
        if batch.return_logits:
            logits = np.empty((num_rows, self.vocab_size), np.float32)
        result = StepResult(token_ids, logprobs, top_ids, top_logprobs, logits)
        try:
            model.forward(batch, result)
        except RuntimeError as error:
            raise InternalError(str(error)) from error
        return result

    def block(self, index: int) -> UInt8:
        return self._open_model().block(index)

    def close(self) -> None:
        self._model = None

    def _open_model(self) -> _core.Model:
        if self._model is None:
            raise InternalError("The runner is closed.")
        return self._model


def _pack_to(
    config: LlamaConfig,
    engine: EngineConfig,
    tensors: Tensors,
    *,
    image: Path | None,
    key: str,
    progress: Progress | None,
) -> _core.Weights:
    """Pack into `image`; where it cannot be written, into memory."""
    if image is not None:
        try:
            image.parent.mkdir(parents=True, exist_ok=True)
            return pack(config, engine, tensors(), image=image, key=key, progress=progress)
        except (OSError, RuntimeError) as error:
            logger.warning("packed weights are not kept, the next start is slow: %s", error)
    return pack(config, engine, tensors(), progress=progress)


def pack(
    config: LlamaConfig,
    engine: EngineConfig,
    tensors: Iterable[tuple[str, Float32 | StoredTensor]],
    *,
    image: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> _core.Weights:
    """Pack every tensor, into the file `image` or into memory: those that hold codes as they are,
    those that hold floats rounded as the dtype says.

    Raises ModelError, naming the tensor that does not fit; RuntimeError for a file that cannot be
    written.
    """
    weights = _core.Weights(
        tensor_specs(config),
        precision=engine.dtype,
        threads=num_threads(engine),
        path="" if image is None else str(image),
        key=key,
    )
    total = len(weights.missing())
    try:
        for done, (name, tensor) in enumerate(tensors, start=1):
            stored = tensor if isinstance(tensor, StoredTensor) else _as_stored(tensor)
            weights.add(name, stored.kind, stored.data, stored.shape, stored.order)
            if progress is not None:
                progress(done, total)
    except ValueError as error:
        raise ModelError(f"The checkpoint does not fit its configuration. {error}") from error
    if missing := weights.missing():
        raise ModelError(
            f"The checkpoint lacks {len(missing)} of {total} tensors, the first is {missing[0]}. "
            "Fetch it again, or name another model."
        )
    weights.finish()
    return weights


def _as_stored(tensor: Float32) -> StoredTensor:
    data = np.ascontiguousarray(tensor, np.float32)
    return StoredTensor("F32", data.reshape(-1).view(np.uint8), tensor.shape)


def check_limits(config: LlamaConfig, engine: EngineConfig) -> None:
    """Raise ModelError for a model or an option that the core cannot run."""
    if engine.dtype not in DTYPES:
        raise ModelError(
            f"dtype must be int8, int4 or float32 on a CPU. Given: {engine.dtype}. "
            "Use --dtype int8, or --device cuda."
        )
    widths = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads * head_dim": config.num_attention_heads * config.head_dim,
    }
    for name, width in widths.items():
        if engine.dtype != "float32" and width % GROUP:
            raise ModelError(
                f"{name} must be a multiple of {GROUP} for --dtype {engine.dtype}. Given: {width}. "
                "Use --dtype float32."
            )
    if engine.block_size <= 0 or engine.block_size % BLOCK_MULTIPLE:
        raise ModelError(
            f"block_size must be a multiple of {BLOCK_MULTIPLE}. Given: {engine.block_size}."
        )
    isas = _core.available_isas()
    if engine.isa not in ("auto", *isas, "amx-model"):
        raise ModelError(
            f"isa must be one that this machine runs: {', '.join(isas)}. Given: {engine.isa}. "
            "Without --isa the fastest of them is taken."
        )
    check_max_model_len(config, engine)


def _num_blocks(config: LlamaConfig, engine: EngineConfig) -> int:
    free_bytes = int(available_bytes() * CACHE_SHARE)
    return choose_num_blocks(config, engine, block_bytes(config, engine), free_bytes)


def block_bytes(config: LlamaConfig, engine: EngineConfig) -> int:
    """Bytes of one block over all layers: keys, and values padded to 16 per head.

    Of a quantised model: in 8 bits, with a float scale for each of both.
    """
    key, value = config.head_dim, -(-config.head_dim // 16) * 16
    position = 4 * (key + value) if engine.dtype == "float32" else key + value + 8
    return config.num_hidden_layers * config.num_key_value_heads * engine.block_size * position


def num_threads(engine: EngineConfig) -> int:
    return engine.threads or len(os.sched_getaffinity(0))
