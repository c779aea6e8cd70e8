"""An opened model: its shape, its tokenizer, and where each of its tensors lies on disk.

Opening reads headers only. The numbers are read and converted by `Checkpoint.tensors`, one tensor
at a time. Names, shapes and the order of rows are always those of transformers.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamastream.config import LlamaConfig, TokenizerConfig
from llamastream.errors import ModelError
from llamastream.models.group_codes import SPANS, kind_of, span_of
from llamastream.sampling import SamplingParams
from llamastream.spec import StoredTensor

Progress = Callable[[str, int, int], None]
"""Called during downloads with (label, bytes done, bytes in all), from any thread."""


SAMPLE_BYTES = 4096


Warn = Callable[[str], None]
"""Takes one line about a model: what in its files does not hold, and what was made of it."""


class Place(NamedTuple):
    """Numbers of one type in a file."""

    file: Path
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]


class Quantised(NamedTuple):
    """Of what a matrix of GPTQ or AWQ is made; see `group_codes.Grouped`."""

    is_awq: bool
    zero_offset: int
    qweight: Place
    qzeros: Place
    scales: Place
    g_idx: Place | None


class TensorEntry(NamedTuple):
    """One tensor on disk. `dtype` is safetensors' or ggml's name of it, "BF16" or "Q4_1"; GPTQ or
    AWQ for a `quantised` one, which has several parts: `num_bytes` counts all.

    `interleaved_heads` is the number of heads whose rows llama.cpp has reordered (q and k only), 0
    where the rows already are in transformers' order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    num_bytes: int
    interleaved_heads: int = 0
    quantised: Quantised | None = None

    @property
    def kind(self) -> str:
        """What the engine calls its numbers."""
        if self.quantised is None:
            return self.dtype
        return kind_of(span_of(self.shape[1] // self.quantised.scales.shape[0]) or SPANS[-1])

    @property
    def place(self) -> Place:
        return Place(self.file, self.offset, self.num_bytes, self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model ready to be read. `fingerprint` names the content of its files: it changes when one
    of them does, and may key whatever is derived from the weights.
    """

    name: str
    path: Path
    format: Literal["safetensors", "gguf"]
    config: LlamaConfig
    tokenizer: TokenizerConfig
    entries: tuple[TensorEntry, ...]
    fingerprint: str
    sampling: SamplingParams = SamplingParams()  # what its authors recommend
    warnings: tuple[str, ...] = ()  # what in its files does not hold

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(entry.shape) for entry in self.entries)

    @property
    def size_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)

    @property
    def dtype(self) -> str:
        """The precision on disk that most of the layers' parameters have.

        Embeddings are left out: quantised files often keep them in a finer type.
        """
        counts: Counter[str] = Counter()
        for entry in self.entries:
            counts[entry.dtype] += math.prod(entry.shape) * (".layers." in entry.name)
        return counts.most_common(1)[0][0]

    def content_digest(self) -> str:
        """Equal for the same model on every machine, whatever its path and times are.

        Of each tensor two samples count, so that nothing large is read: what was trained or
        quantised otherwise differs in all of them. Raises ModelError.
        """
        # Where it lies is its own affair, and the long text costs less as it is.
        tokenizer = replace(self.tokenizer, source="", tokenizer_json="")
        digest = hashlib.sha256(self.tokenizer.tokenizer_json.encode())
        digest.update(repr((self.config, tokenizer)).encode())
        for entry in self.entries:
            place = entry.place if entry.quantised is None else entry.quantised.qweight
            digest.update(f"{entry.name}\0{entry.dtype}\0{entry.shape}\n".encode())
            digest.update(_samples(place))
        return digest.hexdigest()[:32]

    def stored_tensors(self) -> Iterator[tuple[str, StoredTensor]]:
        """Each tensor once, in the numbers of its file. Otherwise as `tensors`."""
        from llamastream.models.decode import read_stored

        return read_stored(self.entries)

    def tensors(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Each tensor once, as float32 in C order, with transformers' names.

        The arrays belong to the caller. A few are converted ahead by two threads; memory stays near
        the largest tensor, never the whole model. Raises ModelError for a file that has changed.
        """
        # Deferred: a start from packed weights reads no tensor, and importing `gguf` costs 70 ms.
        from llamastream.models.decode import read_tensors

        return read_tensors(self.entries)


def _samples(place: Place) -> bytes:
    """The beginning of its numbers, and some from the middle."""
    size = min(SAMPLE_BYTES, place.num_bytes)
    try:
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.offset)
            first = file.read(size)
            file.seek(place.offset + (place.num_bytes - size) // 2)
            return first + file.read(size)
    except OSError as error:
        raise ModelError(f"Cannot read {place.file}: {error.strerror}.") from error


def fingerprint_files(files: Sequence[Path]) -> str:
    """A digest of the files' resolved paths, sizes and times: cheap, and new after any rewrite."""
    digest = hashlib.sha256()
    for file in files:
        try:
            stat = file.stat()
        except OSError as error:
            raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
        digest.update(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]
