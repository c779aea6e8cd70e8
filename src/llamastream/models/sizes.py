"""What a model takes of memory: bytes of its weights, and of the keys and values of a token."""

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from llamastream.config import DType, LlamaConfig

# What our CPU runner makes of floats: a scale and a minimum of 2 bytes each per 32 weights.
WEIGHT_BYTES: dict[DType, float] = {"int8": 1 + 4 / 32, "int4": 0.5 + 4 / 32, "float32": 4}
FLOATS = ("F32", "F16", "BF16")


def weight_bytes(tensor: str, stored: str, dtype: DType) -> float:
    """Of one weight of the tensor, kept at `dtype`, which the checkpoint stores as `stored`.

    Codes are kept as they are, but for float32; outside the layers int4 makes 8 bits of floats.
    """
    if dtype != "float32" and stored not in FLOATS:
        size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[stored]]
        return block_bytes / size
    if dtype == "int4" and ".layers." not in tensor:
        dtype = "int8"
    return WEIGHT_BYTES[dtype]


def kv_bytes_per_token(config: LlamaConfig, dtype: DType) -> int:
    heads = config.num_hidden_layers * config.num_key_value_heads
    return heads * (8 * config.head_dim if dtype == "float32" else 3 * config.head_dim + 8)
