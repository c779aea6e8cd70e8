"""What a step must read and multiply: what turns the machine's bounds into bounds on tokens.

Every step reads all weights once, however many streams share it, and each stream's keys and values.
It multiplies each token with all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llamastream.bench.machine import Bounds
from llamastream.config import DType, LlamaConfig
from llamastream.spec import EMBEDDING, tensor_specs


@dataclass(frozen=True, slots=True)
class Roofline:
    """The work of one model's steps: bytes read, weights multiplied with."""

    weight_bytes: float
    kv_bytes_per_token: int  # of context
    num_layer_weights: int
    num_head_weights: int  # only of tokens whose next token is drawn

    def shares(self, contexts: Sequence[float], elapsed_s: float, bounds: Bounds) -> Bounds:
        """How much of the bounds a decode step reached that took so long for these contexts."""
        read_bytes = self.weight_bytes + self.kv_bytes_per_token * sum(contexts)
        ops = 2 * (self.num_layer_weights + self.num_head_weights) * len(contexts)
        return Bounds(
            read_bytes / elapsed_s / bounds.bytes_per_s, ops / elapsed_s / bounds.ops_per_s
        )

    def prompt_share(self, tok_s: float, bounds: Bounds) -> float:
        """How much of the computing bound a long prompt reached at this speed."""
        return 2 * self.num_layer_weights * tok_s / bounds.ops_per_s


def kv_bytes_per_token(config: LlamaConfig, dtype: DType) -> int:
    heads = config.num_hidden_layers * config.num_key_value_heads
    return heads * (8 * config.head_dim if dtype == "float32" else 2 * config.head_dim + 8)


def roofline(config: LlamaConfig, dtype: DType, *, packed_bytes: float) -> Roofline:
    """packed_bytes: of all weights as they lie in memory; norms and biases are too few to count."""
    shapes = {spec.name: spec.shape for spec in tensor_specs(config)}
    layers = sum(
        math.prod(shape) for name, shape in shapes.items() if ".layers." in name and len(shape) == 2
    )
    head = math.prod(shapes[EMBEDDING])
    # The embedding is a look-up: it is read as the output head, or hardly.
    read = layers + head
    kept = read if config.tie_word_embeddings else read + head
    return Roofline(packed_bytes * read / kept, kv_bytes_per_token(config, dtype), layers, head)
