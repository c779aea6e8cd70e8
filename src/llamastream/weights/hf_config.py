"""From the text of a `config.json` to a LlamaConfig.

Defaults are those of transformers' LlamaConfig and MistralConfig. What we cannot compute exactly is
refused by name, never approximated.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from llamastream.config import LlamaConfig, RopeScaling
from llamastream.errors import ModelError

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
ROPE_TYPES = ("linear", "dynamic", "llama3")
MISTRAL_SLIDING_WINDOW = 4096  # transformers' default where config.json has no such key


class Fields:
    """The fields of one JSON object, with errors that name file, field and value."""

    def __init__(self, values: Mapping[str, Any], source: Path) -> None:
        self.values = values
        self.source = source

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(name, "an integer >= 1", value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name)
        value = default if value is None else value
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not 0 < value < math.inf
        ):
            raise self.error(name, "a number > 0", value)
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def error(self, name: str, wanted: str, value: object) -> ModelError:
        given = "nothing" if value is None else repr(value)
        return ModelError(f"{self.source}: {name} must be {wanted}. Given: {given}.")


def parse_config(values: Mapping[str, Any], source: Path) -> LlamaConfig:
    """Raises ModelError for a model we cannot run, naming `source` (the file) and the field."""
    fields = Fields(values, source)
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
        max_position_embeddings=_context(fields, architecture, context),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        attention_bias=fields.boolean("attention_bias", False),
        mlp_bias=fields.boolean("mlp_bias", False),
    )


def _architecture(fields: Fields) -> str:
    names = fields.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in ARCHITECTURES:
        given = "nothing" if name is None else repr(name)
        raise ModelError(
            f"{fields.source}: the architecture must be one of {', '.join(ARCHITECTURES)}. "
            f"Given: {given}. Choose a model of the Llama family."
        )
    return str(name)


def _refuse_unsupported(fields: Fields) -> None:
    quantization = fields.values.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{fields.source}: checkpoints quantised by {method or 'quantization_config'} are not "
            "supported. Use the model's original float weights (they are quantised to 8 bits at "
            "start) or a GGUF file."
        )
    activation = fields.values.get("hidden_act", "silu")
    if activation != "silu":
        raise fields.error("hidden_act", "'silu'", activation)
    rotary = fields.values.get("partial_rotary_factor", 1.0)
    if rotary not in (None, 1.0):
        raise fields.error("partial_rotary_factor", "1.0", rotary)


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    if fields.values.get("head_dim") is None and hidden % heads:
        raise fields.error("hidden_size", f"a multiple of {heads} attention heads", hidden)
    head_dim = fields.integer("head_dim", hidden // heads)
    if head_dim % 2:
        raise fields.error("head_dim", "even", head_dim)
    return head_dim


def _context(fields: Fields, architecture: str, context: int) -> int:
    if architecture != "MistralForCausalLM":
        return context
    if "sliding_window" not in fields.values:
        return min(context, MISTRAL_SLIDING_WINDOW)
    if fields.values["sliding_window"] is None:
        return context
    return min(context, fields.integer("sliding_window"))


def _rope(fields: Fields, context: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or the older two fields."""
    combined = _object(fields, "rope_parameters")
    theta = (combined if "rope_theta" in combined.values else fields).number("rope_theta", 10000.0)
    older = _object(fields, "rope_scaling")
    scaling = combined if combined.values else older
    rope_type = scaling.values.get("rope_type", scaling.values.get("type", "default"))
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


def _object(fields: Fields, name: str) -> Fields:
    value = fields.values.get(name) or {}
    if not isinstance(value, dict):
        raise fields.error(name, "an object", value)
    return Fields(value, fields.source)
