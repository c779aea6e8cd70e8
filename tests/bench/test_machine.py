"""The machine's bounds, and how many bytes a step reads."""

import math
from dataclasses import replace

import pytest

from llamastream.bench.machine import Bounds, memory_bandwidth
from llamastream.bench.roofline import roofline
from llamastream.config import DType, LlamaConfig
from llamastream.engine import _core
from llamastream.engine.footprint import footprint
from llamastream.spec import tensor_specs

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


@pytest.mark.parametrize("threads", [1, 2])
def test_bandwidth_is_of_a_real_machine(threads: int) -> None:
    assert 1e8 < memory_bandwidth(threads, num_bytes=2**23) < 1e13


@pytest.mark.parametrize("isa", _core.available_isas())
@pytest.mark.parametrize("int8", [True, False])
def test_computing_peak_is_of_a_real_machine(isa: str, int8: bool) -> None:
    assert 1e8 < _core.measure_peak(isa, int8=int8, threads=2, seconds=0.001) < 1e14


@pytest.mark.parametrize(
    ("isa", "threads", "message"),
    [("mmx", 1, "isa 'mmx' is unknown"), ("auto", 0, "threads and seconds must be > 0")],
)
def test_a_peak_that_cannot_be_measured_is_refused(isa: str, threads: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.measure_peak(isa, int8=True, threads=threads, seconds=0.001)


def test_weights_of_the_demo_model_are_all_but_its_norms() -> None:
    work = roofline(SMOLLM2_135M, "int8", packed_bytes=98_000_000)
    # 134,515,008 parameters in the checkpoint, of which 61 norms of 576.
    assert work.num_layer_weights + work.num_head_weights == 134_515_008 - 61 * 576


def test_a_step_reads_the_weights_once_and_each_context() -> None:
    work = roofline(SMOLLM2_135M, "int8", packed_bytes=98_000_000)
    assert work.kv_bytes_per_token == 30 * 3 * (64 * 2 + 8)
    memory, compute = work.shares([10, 20], 0.5, Bounds(1e9, 1e12))
    assert memory == pytest.approx((98e6 + 30 * work.kv_bytes_per_token) / 0.5 / 1e9)
    assert compute == pytest.approx(2 * 2 * (134_515_008 - 61 * 576) / 0.5 / 1e12)


def test_an_embedding_of_its_own_is_not_read() -> None:
    untied = roofline(replace(SMOLLM2_135M, tie_word_embeddings=False), "int8", packed_bytes=1e8)
    head = untied.num_head_weights
    read = untied.num_layer_weights + head
    assert untied.weight_bytes == pytest.approx(1e8 * read / (read + head))


@pytest.mark.parametrize(
    ("stored", "dtype", "kind", "bits"),
    [
        ("BF16", "int8", "A8", 9),
        ("Q4_1", "int8", "Q4_1", 5),  # without loss: models show said 151 MB of the demo's 98
        ("Q6_K", "int4", "Q6_K", 6.5625),
        ("Z4_128", "int8", "Z4_128", 4.1875),
        ("BF16", "int4", "Q4_1", 5),
        ("Q4_1", "float32", "F32", 32),
    ],
)
def test_footprint_is_what_packing_makes(stored: str, dtype: DType, kind: str, bits: float) -> None:
    config = replace(
        SMOLLM2_135M, hidden_size=768, num_attention_heads=12, tie_word_embeddings=False
    )
    specs = tensor_specs(config)
    kinds = {spec.name: "F32" if len(spec.shape) == 1 else stored for spec in specs}
    found = footprint(config, kinds, dtype)
    sizes = {spec.name: math.prod(spec.shape) for spec in specs if len(spec.shape) == 2}
    ends = sizes["model.embed_tokens.weight"] + sizes["lm_head.weight"]
    layers = sum(sizes.values()) - ends
    outside = 9 if stored == "BF16" and dtype == "int4" else bits  # they stay at 8 bits
    vectors = 4 * sum(spec.shape[0] for spec in specs if len(spec.shape) == 1)
    total = layers * bits / 8 + ends * outside / 8 + vectors
    assert found.weight_bytes == total
    assert found.read_bytes == total - ends / 2 * outside / 8
    assert kind in found.by_kind
    assert found.at(10) == total + 10 * found.kv_bytes_per_token
