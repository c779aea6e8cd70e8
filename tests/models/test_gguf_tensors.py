"""GGUF files: every supported type gives its numbers, in transformers' names and row order."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from weights_builders import CONFIG, random_tensors, write_gguf

from llamastream.config import RopeScaling
from llamastream.errors import ModelError
from llamastream.models import Checkpoint, open_checkpoint
from llamastream.models.decode import BLOCKS_PER_ROW, read_tensors
from llamastream.models.gguf_rope import llama3_factors

WIDE = {**CONFIG, "hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def open_written(tmp_path: Path, **options: Any) -> Checkpoint:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, **options)
    return open_checkpoint(str(file), cache_dir=tmp_path / "cache")


def error_of(tmp_path: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        open_written(tmp_path, **options)
    assert "\n" not in caught.value.message
    assert "tiny.gguf" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1])
def test_each_type_gives_the_numbers_it_stands_for(tmp_path: Path, kind: Kind) -> None:
    expected = random_tensors(WIDE)
    checkpoint = open_written(tmp_path, config=WIDE, tensors=expected, kind=kind)
    tensors = dict(checkpoint.tensors())
    assert checkpoint.dtype == kind.name
    assert tensors.keys() == expected.keys()
    for name, values in tensors.items():
        wanted = expected[name]
        if wanted.ndim == 2:
            wanted = gguf.dequantize(gguf.quantize(wanted, kind), kind)
        np.testing.assert_array_equal(values, wanted, err_msg=name)


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K])
def test_k_types_give_the_numbers_of_the_gguf_package(tmp_path: Path, kind: Kind) -> None:
    """No writer of these types exists in Python: the blocks are random bytes with sane scales."""
    rows = WIDE["vocab_size"]  # of one block each
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = np.random.default_rng(1).integers(0, 256, (rows, size), np.uint8)
    scale = np.float16(0.01).view(np.uint16).tobytes()
    at = slice(0, 4) if kind is Kind.Q4_K else slice(size - 2, size)
    raw[..., at] = np.frombuffer(scale * ((at.stop - at.start) // 2), np.uint8)
    tensors = random_tensors(WIDE)
    del tensors["lm_head.weight"]
    checkpoint = open_written(
        tmp_path, config=WIDE, tensors=tensors, raw={"output.weight": (raw, kind)}
    )
    values = dict(checkpoint.tensors())["lm_head.weight"]
    np.testing.assert_array_equal(values, gguf.dequantize(raw, kind))
    assert np.isfinite(values).all() and values.std() > 0


@pytest.mark.parametrize("rows", [1, 3, BLOCKS_PER_ROW, 2 * BLOCKS_PER_ROW + 1])
def test_any_number_of_blocks_decodes(tmp_path: Path, rows: int) -> None:
    values = np.random.default_rng(2).standard_normal((rows, 32), np.float32)
    raw = gguf.quantize(values, Kind.Q8_0)
    file = tmp_path / "raw"
    file.write_bytes(bytes(7) + raw.tobytes())
    entry = (
        open_written(tmp_path)
        .entries[0]
        ._replace(dtype="Q8_0", shape=values.shape, file=file, offset=7, num_bytes=raw.nbytes)
    )
    [(_, decoded)] = read_tensors([entry])
    np.testing.assert_array_equal(decoded, gguf.dequantize(raw, Kind.Q8_0))


@pytest.mark.parametrize("biases", [(), ("self_attn",), ("mlp",), ("self_attn", "mlp")])
def test_biases_are_found_and_ordered(tmp_path: Path, biases: tuple[str, ...]) -> None:
    expected = random_tensors(CONFIG, biases=biases)
    checkpoint = open_written(tmp_path, tensors=expected)
    assert checkpoint.config.attention_bias == ("self_attn" in biases)
    assert checkpoint.config.mlp_bias == ("mlp" in biases)
    for name, values in checkpoint.tensors():
        np.testing.assert_array_equal(values, expected[name])


def test_no_output_matrix_means_tied(tmp_path: Path) -> None:
    tied = {**CONFIG, "tie_word_embeddings": True}
    assert open_written(tmp_path, config=tied).config.tie_word_embeddings


def test_output_matrix_equal_to_the_embedding_means_tied(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    checkpoint = open_written(tmp_path, tensors=tensors)
    assert checkpoint.config.tie_word_embeddings
    assert "lm_head.weight" not in dict(checkpoint.tensors())


def test_configuration_comes_from_the_metadata(tmp_path: Path) -> None:
    metadata = {"llama.rope.freq_base": 50000.0, "llama.attention.layer_norm_rms_epsilon": 1e-6}
    config = open_written(tmp_path, config=WIDE, metadata=metadata | {
        "llama.attention.key_length": 64,
        "llama.attention.value_length": 64,
        "llama.rope.dimension_count": 64,
    }).config  # fmt: skip
    assert (config.head_dim, config.num_key_value_heads, config.vocab_size) == (64, 2, 40)
    assert (config.rope_theta, config.rms_norm_eps) == (50000.0, 1e-6)
    assert config.max_position_embeddings == 64
    assert not config.tie_word_embeddings and config.rope_scaling is None


@pytest.mark.parametrize(
    "metadata",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling_is_read(tmp_path: Path, metadata: dict[str, Any]) -> None:
    config = open_written(tmp_path, metadata=metadata).config
    assert config.rope_scaling == RopeScaling("linear", 4.0, 64)


@pytest.mark.parametrize("metadata", [{}, {"llama.rope.scaling.type": "none"}, {
    "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}])  # fmt: skip
def test_no_scaling_is_none(tmp_path: Path, metadata: dict[str, Any]) -> None:
    assert open_written(tmp_path, metadata=metadata).config.rope_scaling is None


def test_other_scaling_is_refused(tmp_path: Path) -> None:
    message = error_of(tmp_path, metadata={"llama.rope.scaling.type": "yarn"})
    assert "llama.rope.scaling.type must be none or linear. Given: 'yarn'" in message


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_its_factors(tmp_path: Path, factor: float) -> None:
    scaling = RopeScaling("llama3", factor, 8192)
    factors = llama3_factors(scaling, 64, 500000.0).astype(np.float32)
    checkpoint = open_written(
        tmp_path,
        config=WIDE,
        metadata={"llama.rope.freq_base": 500000.0},
        extra={"rope_freqs.weight": factors},
    )
    assert checkpoint.config.rope_scaling == scaling


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                  "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
                  "rope_theta": 500000.0}  # fmt: skip
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, rope_parameters=parameters)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    plain = 500000.0 ** (-np.arange(0, 128, 2) / 128)
    ours = llama3_factors(RopeScaling("llama3", 8.0, 8192), 128, 500000.0)
    np.testing.assert_allclose(plain / scaled, ours, rtol=1e-5)


def test_factors_of_one_are_no_scaling(tmp_path: Path) -> None:
    ones = {"rope_freqs.weight": np.ones(2, np.float32)}
    assert open_written(tmp_path, extra=ones).config.rope_scaling is None


def test_unknown_factors_are_refused(tmp_path: Path) -> None:
    factors = {"rope_freqs.weight": np.array([1.0, 3.0], np.float32)}
    assert "rope_freqs.weight" in error_of(tmp_path, extra=factors)


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        ({"general.architecture": "gemma3"}, "one of llama, qwen2, qwen3 (llama: Llama and"),
        ({"llama.expert_count": 8}, "mixture-of-experts"),
        ({"split.count": 3}, "llama-gguf-split --merge"),
        ({"llama.block_count": None}, "llama.block_count must be an integer >= 1. Given: nothing"),
        ({"llama.block_count": "2"}, "llama.block_count must be an integer >= 1. Given: '2'"),
        ({"llama.attention.layer_norm_rms_epsilon": 0.0}, "must be a number > 0"),
        ({"llama.rope.freq_base": math.inf}, "must be a number > 0. Given: inf"),
        (
            {"llama.block_count": 2**31 - 1},
            "describes 2147483647 layers, but there are only 21 tensors",
        ),
        ({"general.type": "adapter"}, "general.type must be 'model'. Given: 'adapter'. Give the"),
        ({"llama.rope.dimension_count": 2}, "must be the head dimension, 4"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count must be an integer >= 1"),
        (
            {"llama.attention.head_count_kv": 3},
            "head_count_kv must be a divisor of 4 heads",
        ),
        ({"llama.attention.head_count_kv": [2, 2]}, "must be an integer"),
    ],
)
def test_what_cannot_run_is_named(tmp_path: Path, metadata: dict[str, Any], part: str) -> None:
    assert part in error_of(tmp_path, metadata=metadata)


def test_unsupported_type_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    message = error_of(tmp_path, config=WIDE, kind=Kind.TQ2_0)
    assert "has type TQ2_0. Supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0" in message


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    del tensors["model.layers.1.self_attn.v_proj.weight"]
    assert "layers.1.self_attn.v_proj.weight' is missing" in error_of(tmp_path, tensors=tensors)


def test_missing_embedding_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    del tensors["model.embed_tokens.weight"]
    assert "token_embd.weight' is missing" in error_of(tmp_path, tensors=tensors)


def test_extra_tensor_is_named(tmp_path: Path) -> None:
    extra = {"blk.0.ffn_gate_inp.weight": np.ones((4, 16), np.float32)}
    assert "'blk.0.ffn_gate_inp.weight' is not part" in error_of(tmp_path, extra=extra)


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG) | {"model.norm.weight": np.ones(15, np.float32)}
    assert "'model.norm.weight' must have shape (16,)" in error_of(tmp_path, tensors=tensors)


@pytest.mark.parametrize("kept", [0.0, 0.005, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "cut.gguf"
    write_gguf(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ModelError, match=r"cut\.gguf is (truncated or damaged|not a GGUF file)"):
        open_checkpoint(str(file), cache_dir=tmp_path)


@pytest.mark.parametrize("name", ["sha256-00ff", "blob.bin", "M.GGUF"])
def test_a_file_is_gguf_by_what_it_holds_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    file = (tmp_path / "tiny.gguf").rename(tmp_path / name)
    assert open_checkpoint(str(file), cache_dir=tmp_path).format == "gguf"


def test_file_of_another_format_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match="not a GGUF file"):
        open_checkpoint(str(file), cache_dir=tmp_path)
