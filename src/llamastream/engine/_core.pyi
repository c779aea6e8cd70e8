"""The C++ core. Arrays are C-contiguous and exactly of the type that runner.py states.

ValueError: arrays, names, shapes or limits that do not fit, with nothing changed.
RuntimeError: a damaged image file, or logits that are not finite.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig
from llamastream.engine.cpu_runner import Limits
from llamastream.engine.runner import ForwardBatch, SamplingBatch, StepResult
from llamastream.spec import TensorSpec

class Weights:
    """Written to the file `path` as they come, else to memory. precision: float32, int8, or int4:
    embedding and output matrix stay at 8 bits. Raises RuntimeError for what cannot be written.
    """

    def __init__(
        self,
        tensors: Iterable[TensorSpec],
        *,
        precision: str,
        threads: int,
        path: str = "",
        key: str = "",
    ) -> None: ...
    def add(
        self,
        name: str,
        kind: str,
        data: NDArray[np.uint8],
        shape: tuple[int, ...],
        order: Sequence[int],
    ) -> None: ...
    def missing(self) -> list[str]: ...
    def finish(self) -> None:
        """After the last tensor: the file gets its name, and is mapped."""

    def kind(self, name: str) -> str:
        """What a tensor is stored as: ggml's name, or A8."""

    def tensor_bytes(self, name: str) -> int: ...
    def read_rows(self, name: str, first: int, out: NDArray[np.float32]) -> None:
        """What rows of a matrix stand for, exactly. out: (rows, columns)."""

    @property
    def nbytes(self) -> int: ...

def packed_as(tensor: TensorSpec, kind: str, *, precision: str) -> tuple[str, int]:
    """What becomes of a tensor of this type: what it is stored as, and its bytes."""

def open_weights(
    path: str, key: str, tensors: Iterable[TensorSpec], *, precision: str, threads: int
) -> Weights: ...

class Model:
    """cos, sin: (max_model_len, D / 2)."""

    def __init__(
        self,
        weights: Weights,
        config: LlamaConfig,
        limits: Limits,
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        *,
        isa: str,
    ) -> None: ...
    def forward(self, batch: ForwardBatch, results: StepResult) -> None:
        """Compute one step with the GIL released, writing into the arrays of `results`."""

    def block(self, index: int) -> NDArray[np.uint8]:
        """The memory of a block of the cache, of all layers. It lives as long as this array."""

    @property
    def isa(self) -> str: ...

def available_isas() -> list[str]: ...
def measure_peak(isa: str, *, int8: bool, threads: int, seconds: float) -> float:
    """Multiplications and additions per second of all threads together, in registers: of bytes
    where the instruction set multiplies them and int8 asks for it, of float32 elsewhere."""

def philox4x32(counter: list[int], key: list[int]) -> list[int]: ...
def sample(
    logits: NDArray[np.float32], sampling: SamplingBatch, results: StepResult, *, isa: str
) -> None:
    """Draw one token per row of logits (R, V), as forward does."""
