"""What a model takes of memory beside its weights: bytes of the keys and values of a token."""

from llamastream.config import DType, LlamaConfig


def kv_bytes_per_token(config: LlamaConfig, dtype: DType) -> int:
    heads = config.num_hidden_layers * config.num_key_value_heads
    return heads * (8 * config.head_dim if dtype == "float32" else 3 * config.head_dim + 8)
