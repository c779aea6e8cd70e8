"""From the text of a `config.json` to a LlamaConfig.

Defaults are those of transformers' LlamaConfig and MistralConfig. What we cannot compute exactly is
refused by name, never approximated.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from llamastream.config import LlamaConfig, RopeScaling
from llamastream.errors import ModelError
from llamastream.models.fields import Fields

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
ROPE_TYPES = ("linear", "dynamic", "llama3")
MISTRAL_SLIDING_WINDOW = 4096  # transformers' default where config.json has no such key


def parse_config(values: Mapping[str, Any], source: Path) -> LlamaConfig:
    """Raises ModelError for a model we cannot run, naming `source` (the file) and the field."""
    fields = Fields(source, values.get)
    architecture = _architecture(fields)
    _refuse_unsupported(fields)
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_attention_heads", f"a multiple of {kv_heads} KV heads", heads)
    context = fields.integer("max_position_embeddings", 2048)
    theta, scaling = _rope(fields, context)
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_head_dim(fields, hidden, heads),
        max_position_embeddings=_context(values, fields, architecture, context),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        attention_bias=fields.boolean("attention_bias", False),
        attention_output_bias=fields.boolean("attention_bias", False),
        mlp_bias=fields.boolean("mlp_bias", False),
    )


def _architecture(fields: Fields) -> str:
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in ARCHITECTURES:
        given = "nothing" if name is None else repr(name)
        raise ModelError(
            f"{fields.source}: the architecture must be one of {', '.join(ARCHITECTURES)}. "
            f"Given: {given}. Choose a model of the Llama family."
        )
    return str(name)


def _refuse_unsupported(fields: Fields) -> None:
    quantization = fields.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{fields.source}: checkpoints quantised by {method or 'quantization_config'} are not "
            "supported. Use the model's original float weights (they are quantised to 8 bits at "
            "start) or a GGUF file."
        )
    for name, only in (("hidden_act", "silu"), ("partial_rotary_factor", 1.0)):
        if (value := fields.get(name)) not in (None, only):
            raise fields.error(name, repr(only), value)


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    if fields.get("head_dim") is None and hidden % heads:
        raise fields.error("hidden_size", f"a multiple of {heads} attention heads", hidden)
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.error("head_dim", "even", head_dim)
    return head_dim


def _context(values: Mapping[str, Any], fields: Fields, architecture: str, context: int) -> int:
    window = values.get("sliding_window", MISTRAL_SLIDING_WINDOW)
    if architecture != "MistralForCausalLM" or window is None:
        return context
    return min(context, fields.integer("sliding_window", MISTRAL_SLIDING_WINDOW))


def _rope(fields: Fields, context: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or the older two fields."""
    combined, older = _object(fields, "rope_parameters"), _object(fields, "rope_scaling")
    scaling = Fields(fields.source, (combined or older).get)
    theta = (scaling if "rope_theta" in combined else fields).number("rope_theta", 10000.0)
    rope_type = scaling.get("rope_type") or scaling.get("type") or "default"
    if rope_type == "default":
        return theta, None
    if rope_type not in ROPE_TYPES:
        raise fields.error("rope_scaling.rope_type", f"one of {', '.join(ROPE_TYPES)}", rope_type)
    llama3 = rope_type == "llama3"
    original = scaling.integer("original_max_position_embeddings", None if llama3 else context)
    return theta, RopeScaling(
        rope_type=cast(Literal["linear", "dynamic", "llama3"], rope_type),
        factor=scaling.number("factor"),
        original_max_position_embeddings=original,
        low_freq_factor=scaling.number("low_freq_factor", None if llama3 else 1.0),
        high_freq_factor=scaling.number("high_freq_factor", None if llama3 else 4.0),
    )


def _object(fields: Fields, name: str) -> dict[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise fields.error(name, "an object", value)
    return value
