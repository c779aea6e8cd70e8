"""Makes GPU runners on whatever is here: a CUDA device, or Triton's interpreter on the host."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from llamastream.config import DType, EngineConfig, LlamaConfig

if TYPE_CHECKING:
    from llamastream.engine.gpu.runner import GpuRunner

NEEDED = "needs torch and triton: make test-gpu"


def find_device() -> str:
    """ "cuda:0", or "cpu" with the interpreter switched on. Skips without torch and triton."""
    torch = pytest.importorskip("torch", reason=NEEDED)
    if torch.cuda.is_available():
        pytest.importorskip("triton", reason=NEEDED)
        return "cuda:0"
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    pytest.importorskip("triton", reason=NEEDED)
    return "cpu"


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
