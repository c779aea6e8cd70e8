"""Makes GPU runners on whatever is here: a CUDA device, or Triton's interpreter on the host."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from llamastream.config import DType, EngineConfig, LlamaConfig
from llamastream.engine.gpu.device import has_driver

if TYPE_CHECKING:
    from llamastream.engine.gpu.runner import GpuRunner

NEEDED = "needs torch and triton: make test-gpu"

if not has_driver():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which torch may do


def find_device() -> str:
    """ "cuda:0", or "cpu" for the interpreter. Skips without torch and triton."""
    for package in ("torch", "triton"):
        pytest.importorskip(package, reason=NEEDED)
    return "cuda:0" if has_driver() else "cpu"


class MakeGpuRunner(Protocol):
    def __call__(
        self,
        config: LlamaConfig,
        tensors: Mapping[str, NDArray[np.float32]],
        dtype: DType = "float32",
        **engine: object,
    ) -> "GpuRunner": ...


def runner_maker(device: str) -> MakeGpuRunner:
    from llamastream.engine.gpu.runner import GpuRunner

    def make(
        config: LlamaConfig,
        tensors: Mapping[str, NDArray[np.float32]],
        dtype: DType = "float32",
        **changes: object,
    ) -> GpuRunner:
        limits = {"max_num_seqs": 16, "max_num_batched_tokens": 64, "block_size": 16}
        engine = EngineConfig(dtype=dtype, **{**limits, **changes})  # type: ignore[arg-type]
        return GpuRunner.load(config, engine, tensors.items, device=device)

    return make
