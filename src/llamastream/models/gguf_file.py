"""Opens a GGUF file, or all parts of one: from its header, or what a former opening has cached."""

import logging
from pathlib import Path

from llamastream.errors import reading
from llamastream.models import gguf_cache
from llamastream.models.checkpoint import Checkpoint, fingerprint_files
from llamastream.models.gguf_split import part_files

MAGIC = b"GGUF"

logger = logging.getLogger(__name__)


def is_gguf(file: Path) -> bool:
    """What it holds, whatever it is called. Raises ModelError where it cannot be read."""
    with reading(file), file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def open_gguf(file: Path, *, name: str, cache_dir: Path) -> Checkpoint:
    """Raises ModelError for a file that is not whole, not GGUF, or not a model we can run."""
    files = part_files(file)
    fingerprint = fingerprint_files([part for part in files if part == file or part.is_file()])
    cached = gguf_cache.cache_file(cache_dir, fingerprint)
    header = gguf_cache.load(cached, files)
    if header is None:
        # Deferred: with the header cached, a start needs neither this module nor `gguf` (70 ms).
        from llamastream.models.gguf_header import read_header

        header = read_header(file)
        try:
            gguf_cache.save(cached, header)
        except OSError as error:
            logger.warning("the next start will be slow: cannot write %s: %s", cached, error)
    return Checkpoint(
        name=name,
        path=file,
        format="gguf",
        config=header.config,
        tokenizer=header.tokenizer,
        entries=header.entries,
        fingerprint=fingerprint,
        warnings=header.warnings,
    )
