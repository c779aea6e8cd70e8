"""What running a model takes: bytes of its weights as they are packed, of its cache, per token.

Knows no files: the types of a model's tensors are given.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from llamastream.config import DType, EngineConfig, LlamaConfig
from llamastream.engine import _core
from llamastream.engine.cpu_runner import block_bytes, check_limits
from llamastream.spec import EMBEDDING, tensor_specs


class Footprint(NamedTuple):
    """by_kind: bytes of the weights by the type that they are kept as; vectors count as F32.
    read_bytes: of them, what each step reads."""

    by_kind: Mapping[str, int]
    read_bytes: int
    kv_bytes_per_token: int

    @property
    def weight_bytes(self) -> int:
        return sum(self.by_kind.values())

    def at(self, context: int) -> int:
        """Bytes of weights and of the cache of so many tokens."""
        return self.weight_bytes + context * self.kv_bytes_per_token


def footprint(config: LlamaConfig, kinds: Mapping[str, str], dtype: DType) -> Footprint:
    """kinds: the type of each tensor in its file, by name.

    Raises ModelError for a shape that does not run at this precision.
    """
    engine = EngineConfig(dtype=dtype)
    check_limits(config, engine)
    by_kind: Counter[str] = Counter()
    looked_up = 0
    for spec in tensor_specs(config):
        kind, num_bytes = _core.packed_as(spec, kinds[spec.name], precision=dtype)
        by_kind[kind] += num_bytes
        if spec.name == EMBEDDING and not config.tie_word_embeddings:
            looked_up = num_bytes  # a row a token
    total = sum(by_kind.values())
    per_token = block_bytes(config, engine) // engine.block_size
    return Footprint(dict(by_kind), total - looked_up, per_token)
