"""Which tensors a model of a given shape must have, and the check that a checkpoint has them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llamastream.config import LlamaConfig
from llamastream.errors import ModelError
from llamastream.models.checkpoint import TensorEntry, Warn
from llamastream.spec import EMBEDDING, LM_HEAD, tensor_specs

CHUNK_BYTES = 2**20


def check_layout(
    config: LlamaConfig, entries: Sequence[TensorEntry], source: Path
) -> tuple[TensorEntry, ...]:
    """The entries the model uses. Raises ModelError for one missing, unknown or of another shape.

    Left out without a word: `rotary_emb.inv_freq`, which old checkpoints carry and which follows
    from the configuration, and an output matrix equal to a tied embedding.
    """
    kept = [entry for entry in entries if not entry.name.endswith("rotary_emb.inv_freq")]
    if config.tie_word_embeddings:
        kept = [entry for entry in kept if entry.name != LM_HEAD]
    if config.num_hidden_layers > len(kept):  # before listing what a damaged number asks for
        raise ModelError(
            f"{source}: the configuration describes {config.num_hidden_layers} layers, but there "
            f"are only {len(kept)} tensors. Configuration and weights do not belong together."
        )
    expected = {spec.name: spec.shape for spec in tensor_specs(config)}
    names = {entry.name for entry in kept}
    missing = [name for name in expected if name not in names]
    if missing:
        raise ModelError(
            f"{source}: {_several('tensor', missing)} missing. The checkpoint is incomplete or its "
            "configuration describes another model: download it again."
        )
    extra = sorted(names - expected.keys())
    if extra:
        raise ModelError(
            f"{source}: {_several('tensor', extra)} not part of the model its configuration "
            "describes. Remove what does not belong to it, or download the checkpoint again."
        )
    for entry in kept:
        if entry.shape != expected[entry.name]:
            raise ModelError(
                f"{source}: tensor {entry.name!r} must have shape {expected[entry.name]} by the "
                f"model's configuration. Given: {entry.shape}. Configuration and weights do not "
                "belong together: download both again."
            )
    return tuple(kept)


def same_bytes(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two tensors hold the same numbers, bit for bit. Reads only up to a difference."""
    if (one.dtype, one.shape, one.num_bytes) != (other.dtype, other.shape, other.num_bytes):
        return False
    with one.file.open("rb") as left, other.file.open("rb") as right:
        left.seek(one.offset)
        right.seek(other.offset)
        for start in range(0, one.num_bytes, CHUNK_BYTES):
            size = min(CHUNK_BYTES, one.num_bytes - start)
            if left.read(size) != right.read(size):
                return False
    return True


def untied_if_own_head(
    config: LlamaConfig, entries: Sequence[TensorEntry], warn: Warn
) -> LlamaConfig:
    """`config`, untied where the weights hold an output matrix of their own: they know better.

    As transformers does it since version 5.
    """
    by_name = {entry.name: entry for entry in entries}
    if not config.tie_word_embeddings or not {EMBEDDING, LM_HEAD} <= by_name.keys():
        return config
    if same_bytes(by_name[EMBEDDING], by_name[LM_HEAD]):
        return config
    warn(
        f"the configuration ties {LM_HEAD} to {EMBEDDING}, yet the weights hold another one, "
        "which is used"
    )
    return replace(config, tie_word_embeddings=False)


def _several(noun: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{noun} {names[0]!r} is"
    return f"{noun} {names[0]!r} and {len(names) - 1} more are"
