"""The second opening of a GGUF file reads the cached header, and only a good one."""

import subprocess
import sys
from pathlib import Path

import pytest
from weights_builders import CONFIG, random_tensors, write_gguf

from llamastream.config import RopeScaling
from llamastream.models import Checkpoint, open_checkpoint
from llamastream.models.gguf_cache import cache_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write_gguf(path, metadata=scaling)
    return path


def opened(file: Path, cache: Path) -> Checkpoint:
    return open_checkpoint(str(file), cache_dir=cache)


def test_second_opening_equals_the_first(file: Path, cache: Path) -> None:
    first = opened(file, cache)
    assert first.config.rope_scaling == RopeScaling("linear", 2.0, 64)
    assert opened(file, cache) == first


def test_second_opening_does_not_import_gguf(file: Path, cache: Path) -> None:
    opened(file, cache)
    program = (
        "import sys; from pathlib import Path; from llamastream.models import open_checkpoint; "
        "open_checkpoint(sys.argv[1], cache_dir=Path(sys.argv[2])); "
        "sys.exit('gguf' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(file), str(cache)], check=True)


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"[{}, {}, []]",
        b"\xff\xfe",
    ],
)
def test_damaged_cache_is_rebuilt(file: Path, cache: Path, damaged: bytes) -> None:
    first = opened(file, cache)
    cached = cache_file(cache, first.fingerprint)
    good = cached.read_bytes()
    cached.write_bytes(damaged)
    assert opened(file, cache) == first
    assert cached.read_bytes() == good


def test_rewritten_file_is_read_anew(file: Path, cache: Path) -> None:
    opened(file, cache)
    tied = {**CONFIG, "tie_word_embeddings": True}
    write_gguf(file, config=tied, tensors=random_tensors(tied))
    assert opened(file, cache).config.tie_word_embeddings


def test_cache_that_cannot_be_written_is_only_slower(
    file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where the folder should be")
    assert opened(file, cache).name == "tiny"
    assert "cannot write" in caplog.text


def test_no_partial_cache_file_is_left(file: Path, cache: Path) -> None:
    cached = cache_file(cache, opened(file, cache).fingerprint)
    assert list(cached.parent.iterdir()) == [cached]
