"""How long a sequence and how large the KV cache may be, whatever the device."""

from llamastream.config import EngineConfig, LlamaConfig
from llamastream.errors import ModelError


def check_max_model_len(config: LlamaConfig, engine: EngineConfig) -> None:
    """Raise ModelError for a context that the model was not made for."""
    longest = engine.max_model_len or config.max_position_embeddings
    scaling = config.rope_scaling
    limit = config.max_position_embeddings
    if scaling is not None and scaling.rope_type == "dynamic":
        limit = max(limit, int(scaling.factor * scaling.original_max_position_embeddings))
    if not 0 < longest <= limit:
        raise ModelError(f"max_model_len must be > 0 and <= {limit}. Given: {longest}.")


def choose_num_blocks(
    config: LlamaConfig, engine: EngineConfig, block_bytes: int, free_bytes: int
) -> int:
    """Blocks of the KV cache: all that can be used at once, as far as memory allows.

    free_bytes: the limit when kv_cache_bytes sets none. Raises ModelError where not even one
    sequence of max_model_len fits.
    """
    longest = engine.max_model_len or config.max_position_embeddings
    needed = -(-longest // engine.block_size)
    budget = free_bytes if engine.kv_cache_bytes is None else engine.kv_cache_bytes
    fitting = budget // block_bytes
    if fitting < needed:
        shorter = f"Lower --max-model-len to {fitting * engine.block_size} or raise"
        raise ModelError(
            f"max_model_len {longest} needs a KV cache of {needed * block_bytes} bytes, the limit "
            f"is {budget}. {shorter if fitting else 'Raise'} --kv-cache-gib."
        )
    return int(min(fitting, needed * engine.max_num_seqs))
