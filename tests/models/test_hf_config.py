"""config.json: defaults, every RoPE scaling, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig as TransformersLlama
from transformers import MistralConfig
from weights_builders import CONFIG

from llamastream.config import RopeScaling
from llamastream.errors import ModelError
from llamastream.models.hf_config import parse_config

FILE = Path("model") / "config.json"
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def error_of(**changes: Any) -> str:
    values = {**CONFIG, **changes}
    with pytest.raises(ModelError) as caught:
        parse_config({key: value for key, value in values.items() if value != "absent"}, FILE)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_defaults_are_those_of_transformers() -> None:
    required = ("architectures", "vocab_size", "hidden_size", "intermediate_size",
                "num_hidden_layers", "num_attention_heads")  # fmt: skip
    values = {key: CONFIG[key] for key in required}
    ours = parse_config(values, FILE)
    theirs = TransformersLlama(**{key: CONFIG[key] for key in required[1:]})
    for name in ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps",
                 "tie_word_embeddings", "attention_bias", "mlp_bias"):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.rope_scaling is None


@pytest.mark.parametrize("type_key", ["type", "rope_type"])
@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_linear_and_dynamic_scaling(kind: str, type_key: str) -> None:
    scaling = {type_key: kind, "factor": 2.0}
    config = parse_config({**CONFIG, "rope_scaling": scaling}, FILE)
    assert config.rope_scaling == RopeScaling(kind, 2.0, 64)  # type: ignore[arg-type]


def test_llama3_scaling() -> None:
    config = parse_config({**CONFIG, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, FILE)
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)


def test_rope_parameters_of_transformers_5() -> None:
    parameters = {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA3}
    config = parse_config({**CONFIG, "rope_parameters": parameters}, FILE)
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 1e6},
        {"rope_theta": 1e6, "rope_scaling": None},
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ],
)
def test_base_without_scaling(fields: dict[str, Any]) -> None:
    config = parse_config({**CONFIG, **fields}, FILE)
    assert (config.rope_theta, config.rope_scaling) == (1e6, None)


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"sliding_window": 16}, 16),
        ({"sliding_window": 100}, 64),
        ({"sliding_window": None}, 64),
        ({"max_position_embeddings": 32768}, 4096),
    ],
)
def test_sliding_window_caps_the_context(fields: dict[str, Any], context: int) -> None:
    values = {**CONFIG, **fields, "architectures": ["MistralForCausalLM"]}
    assert parse_config(values, FILE).max_position_embeddings == context


def test_window_absent_means_transformers_default() -> None:
    assert MistralConfig().sliding_window == 4096


@pytest.mark.parametrize("architecture", ["Qwen2MoeForCausalLM", "absent", None, []])
def test_other_architecture_is_refused(architecture: Any) -> None:
    names = [architecture] if isinstance(architecture, str) else architecture
    message = error_of(architectures="absent" if architecture == "absent" else names)
    assert "must be one of LlamaForCausalLM, MistralForCausalLM" in message
    assert str(FILE) in message


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("vocab_size", "absent", "vocab_size must be an integer >= 1. Given: nothing."),
        ("hidden_size", 0, "hidden_size must be an integer >= 1. Given: 0."),
        ("hidden_size", "16", "Given: '16'."),
        ("hidden_size", 18, "hidden_size must be a multiple of 4 attention heads. Given: 18."),
        ("num_hidden_layers", True, "Given: True."),
        ("num_key_value_heads", 3, "num_attention_heads must be a multiple of 3 KV heads"),
        ("head_dim", 3, "head_dim must be even. Given: 3."),
        ("rms_norm_eps", -1, "rms_norm_eps must be a number > 0. Given: -1."),
        ("rms_norm_eps", float("nan"), "rms_norm_eps must be a number > 0. Given: nan."),
        ("rope_theta", float("inf"), "rope_theta must be a number > 0. Given: inf."),
        ("tie_word_embeddings", "yes", "tie_word_embeddings must be true or false."),
        ("hidden_act", "gelu", "hidden_act must be 'silu'. Given: 'gelu'."),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor must be 1.0. Given: 0.5."),
        ("rope_scaling", [2], "rope_scaling must be an object. Given: [2]."),
        ("rope_scaling", {"type": "yarn", "factor": 2.0}, "must be one of linear, dynamic, llama3"),
        ("rope_scaling", {"type": "linear"}, "factor must be a number > 0. Given: nothing."),
        ("rope_scaling", {"type": "llama3", "factor": 8.0}, "Given: nothing."),
    ],
)
def test_bad_field_is_named_with_its_value(field: str, value: Any, part: str) -> None:
    message = error_of(**{field: value})
    assert part in message
    assert str(FILE) in message
