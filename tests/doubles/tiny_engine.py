"""The real engine on a tiny model of bytes: what it says has a form from a grammar alone."""

import numpy as np

from llamastream.config import DType, EngineConfig, LlamaConfig
from llamastream.engine.async_engine import AsyncEngine
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.llm_engine import LLMEngine
from llamastream.spec import tensor_specs

CONFIG = LlamaConfig(
    vocab_size=259,  # tests/doubles/tokenizer.py
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=1024,
)


def tiny_engine(
    isa: str = "auto", dtype: DType = "float32", seed: int = 0, **options: object
) -> AsyncEngine:
    """Loads on its own thread, as any does. `seed`: of its weights."""

    def load() -> LLMEngine:
        config = EngineConfig(
            dtype=dtype,
            isa=isa,
            **{"kv_cache_bytes": 8 << 20, "threads": 1, **options},  # type: ignore[arg-type]
        )
        rng = np.random.default_rng(seed)
        tensors = {
            spec.name: (rng.standard_normal(spec.shape) * 0.3).astype(np.float32)
            for spec in tensor_specs(CONFIG)
        }
        return LLMEngine(CpuRunner.load(CONFIG, config, tensors.items), config)

    return AsyncEngine(load)
