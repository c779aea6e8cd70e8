"""What was read from a GGUF header, kept as one JSON file.

Reading the header of a small model takes longer (2 s for 49,152 tokens) than starting to answer
may take. The cache is keyed by the file's fingerprint, so it is never stale, and written whole or
not at all. A damaged one counts as absent.
"""

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from llamastream.config import LlamaConfig, RopeScaling, TokenizerConfig
from llamastream.weights.checkpoint import TensorEntry

VERSION = 1  # raise it when what is derived from a header changes


class Header(NamedTuple):
    """Everything but the numbers."""

    config: LlamaConfig
    tokenizer: TokenizerConfig
    entries: tuple[TensorEntry, ...]


def cache_file(cache_dir: Path, fingerprint: str) -> Path:
    return cache_dir / "gguf-headers" / f"{fingerprint}.json"


def load(file: Path, gguf: Path) -> Header | None:
    """The header of `gguf` from its cache file; None when there is none that can be used."""
    try:
        document = json.loads(file.read_bytes())
        if document["version"] != VERSION:
            return None
        config = document["config"]
        scaling = config.pop("rope_scaling")
        tokenizer = document["tokenizer"]
        tokenizer["eos_token_ids"] = tuple(tokenizer["eos_token_ids"])
        return Header(
            LlamaConfig(**config, rope_scaling=RopeScaling(**scaling) if scaling else None),
            TokenizerConfig(**tokenizer),
            tuple(_entry(gguf, *row) for row in document["entries"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save(file: Path, header: Header) -> None:
    """Write `header` to `file`, atomically. Raises OSError."""
    document = {
        "version": VERSION,
        "config": asdict(header.config),
        "tokenizer": asdict(header.tokenizer),
        "entries": [
            [e.name, e.dtype, e.shape, e.offset, e.num_bytes, e.interleaved_heads]
            for e in header.entries
        ],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, suffix=".part", delete=False, encoding="utf-8"
    ) as part:
        try:
            json.dump(document, part, ensure_ascii=False, separators=(",", ":"))
            part.close()
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise


def _entry(gguf: Path, *row: Any) -> TensorEntry:
    name, dtype, shape, offset, num_bytes, heads = row
    return TensorEntry(name, dtype, tuple(shape), gguf, offset, num_bytes, heads)
