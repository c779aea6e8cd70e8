"""Quantised tensors reach the core as the codes of their file: exact, at the file's own size."""

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamastream.config import EngineConfig
from llamastream.engine.cpu_runner import pack
from llamastream.models import open_checkpoint
from llamastream.models.checkpoint import Checkpoint

SHARED = Path(__file__).parents[3] / "shared" / "data" / "gguf_types"
EXTRA = os.environ.get("LLAMASTREAM_TEST_GGUF", "")  # more files, with colons between them
FILES = [*sorted(SHARED.glob("*.gguf")), *(Path(name) for name in EXTRA.split(":") if name)]

pytestmark = pytest.mark.skipif(not FILES, reason="the shared test data is not beside the repo")


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(request.param), cache_dir=tmp_path)


def test_values_are_those_of_gguf_bit_for_bit(checkpoint: Checkpoint) -> None:
    weights = pack(checkpoint.config, EngineConfig(), checkpoint.stored_tensors())
    coded = 0
    for name, wanted in checkpoint.tensors():
        kind = next(entry.dtype for entry in checkpoint.entries if entry.name == name)
        if wanted.ndim == 1 or kind in ("F32", "F16", "BF16"):
            continue
        assert weights.kind(name) == kind
        found = np.empty_like(wanted)
        weights.read_rows(name, 0, found)
        np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))
        coded += 1
    assert coded >= 8


def test_float32_takes_the_same_values(checkpoint: Checkpoint) -> None:
    weights = pack(checkpoint.config, EngineConfig(dtype="float32"), checkpoint.stored_tensors())
    for name, wanted in checkpoint.tensors():
        if wanted.ndim == 2:
            found = np.empty_like(wanted)
            weights.read_rows(name, 0, found)
            np.testing.assert_array_equal(found, wanted)


def test_packed_size_is_that_of_the_file(checkpoint: Checkpoint) -> None:
    weights = pack(checkpoint.config, EngineConfig(), checkpoint.stored_tensors())
    coded = [e for e in checkpoint.entries if gguf.GGMLQuantizationType[e.dtype] > 1]
    assert coded
    for entry in coded:
        assert weights.tensor_bytes(entry.name) <= 1.06 * entry.num_bytes
