"""What `llamastream models` shows: which models are here, and what running one takes."""

import logging
from dataclasses import dataclass
from pathlib import Path

from llamastream.errors import ModelError
from llamastream.weights.checkpoint import Checkpoint
from llamastream.weights.demo import demo_file
from llamastream.weights.folder import open_folder
from llamastream.weights.gguf_file import open_gguf
from llamastream.weights.hub_cache import list_fetched
from llamastream.weights.opening import DEMO

INT8_BYTES = 1 + 4 / 32  # one byte, and a scale and a minimum of 2 bytes for each group of 32
INT8_KV_BYTES, FLOAT32_KV_BYTES = 2, 4  # one cached number: bfloat16 and float32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model's size, and what it needs of memory by the precision it is run in.

    `precision` is that of the files. Keys and values are counted per token of context.
    """

    name: str
    path: Path
    format: str
    size_bytes: int
    num_parameters: int
    precision: str
    max_context: int
    int8_bytes: int
    float32_bytes: int
    int8_kv_bytes: int
    float32_kv_bytes: int


def describe(checkpoint: Checkpoint) -> ModelInfo:
    config = checkpoint.config
    kv_numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return ModelInfo(
        name=checkpoint.name,
        path=checkpoint.path,
        format=checkpoint.format,
        size_bytes=checkpoint.size_bytes,
        num_parameters=checkpoint.num_parameters,
        precision=checkpoint.dtype,
        max_context=config.max_position_embeddings,
        int8_bytes=int(checkpoint.num_parameters * INT8_BYTES),
        float32_bytes=checkpoint.num_parameters * 4,
        int8_kv_bytes=kv_numbers * INT8_KV_BYTES,
        float32_kv_bytes=kv_numbers * FLOAT32_KV_BYTES,
    )


def list_local(cache_dir: Path) -> list[ModelInfo]:
    """The models fetched into `cache_dir`, by name. One that cannot be read is logged, not listed.

    Never reaches for the network.
    """
    models = []
    for name, path in local_models(cache_dir):
        try:
            if path.is_dir():
                checkpoint = open_folder(path, name=name)
            else:
                checkpoint = open_gguf(path, name=name, cache_dir=cache_dir)
        except ModelError as error:
            logger.warning("cannot read model %s: %s", name, error)
        else:
            models.append(describe(checkpoint))
    return models


def local_models(cache_dir: Path) -> list[tuple[str, Path]]:
    """Name and place of each model fetched into `cache_dir`."""
    demo = demo_file(cache_dir)
    return [*([(DEMO, demo)] if demo.is_file() else []), *list_fetched(cache_dir)]
