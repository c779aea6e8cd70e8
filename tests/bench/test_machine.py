"""The machine's bounds, and how many bytes a step reads."""

import pytest

from llamastream.bench.machine import memory_bandwidth
from llamastream.bench.roofline import count_weights, traffic
from llamastream.config import LlamaConfig

SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_bandwidth_is_of_a_real_machine(threads: int | None) -> None:
    assert 1e8 < memory_bandwidth(threads, num_bytes=2**23) < 1e13


def test_weights_of_the_demo_model_are_all_but_its_norms() -> None:
    # 134,515,008 parameters in the checkpoint, of which 61 norms of 576.
    assert count_weights(SMOLLM2_135M) == 134_515_008 - 61 * 576


def test_a_step_reads_the_weights_once_and_each_context() -> None:
    found = traffic(SMOLLM2_135M, "int8")
    assert found.weight_bytes == pytest.approx(151.3e6, rel=1e-3)
    assert found.kv_bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert found.step_bytes([10, 20]) == found.weight_bytes + 30 * found.kv_bytes_per_token
