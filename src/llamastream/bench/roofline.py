"""How many bytes a decode step must read: what turns a bandwidth into a bound on tokens per second.

Every step reads all weights once, however many streams share it, and each stream's keys and values.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llamastream.config import DType, LlamaConfig

# As the core packs them: 8 bits, and a scale and a minimum of 16 bits each per group of 32.
BITS_PER_WEIGHT: dict[DType, float] = {"int8": 9.0, "float32": 32.0}
KV_BYTES_PER_VALUE: dict[DType, int] = {"int8": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes read from memory, by one step of a model."""

    weight_bytes: float
    kv_bytes_per_token: float  # of context

    def step_bytes(self, context_lens: Iterable[int]) -> float:
        """For one step that decodes one token for each of these contexts."""
        return self.weight_bytes + self.kv_bytes_per_token * sum(context_lens)


def count_weights(config: LlamaConfig) -> int:
    """Weights that every token is multiplied with. The embedding is a look-up: it counts as the
    output head only, tied or not."""
    hidden, head_dim = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    attention = hidden * (2 * queries + 2 * keys)
    mlp = 3 * hidden * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + config.vocab_size * hidden


def traffic(config: LlamaConfig, dtype: DType) -> Traffic:
    """What our CPU runner reads, which keeps weights and cache packed in memory."""
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return Traffic(
        weight_bytes=count_weights(config) * BITS_PER_WEIGHT[dtype] / 8,
        kv_bytes_per_token=values * KV_BYTES_PER_VALUE[dtype],
    )
