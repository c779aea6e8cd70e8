"""What was read from a GGUF header, kept as one JSON file.

Reading the header of a small model takes longer (2 s for 49,152 tokens) than starting to answer
may take. The cache is keyed by the file's fingerprint, so it is never stale, and written whole or
not at all. A damaged one counts as absent.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from llamastream.config import LlamaConfig, TokenizerConfig
from llamastream.models.checkpoint import TensorEntry
from llamastream.models.gguf_split import part_index

VERSION = "v3"  # raise it when what is derived from a header changes


class Header(NamedTuple):
    """Everything but the numbers."""

    config: LlamaConfig
    tokenizer: TokenizerConfig
    entries: tuple[TensorEntry, ...]
    warnings: tuple[str, ...] = ()


_HEADER = TypeAdapter(Header)


def cache_file(cache_dir: Path, fingerprint: str) -> Path:
    return cache_dir / "gguf-headers" / f"{fingerprint}-{VERSION}.json"


def load(file: Path, parts: Sequence[Path]) -> Header | None:
    """The header of the model in `parts` from its cache file; None when none can be used."""
    try:
        header: Header = _HEADER.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    # The same file may have been opened by another path, through a link since removed.
    is_split = len(parts) > 1
    places = [part_index(entry.file) if is_split else 0 for entry in header.entries]
    if max(places, default=0) >= len(parts):
        return None
    pairs = zip(header.entries, places, strict=True)
    return header._replace(entries=tuple(entry._replace(file=parts[i]) for entry, i in pairs))


def save(file: Path, header: Header) -> None:
    """Write `header` to `file`, atomically. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        try:
            part.write(_HEADER.dump_json(header))
            part.close()
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise
