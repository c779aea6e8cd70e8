"""From the text of a `config.json` to a LlamaConfig.

Defaults are those of transformers. What we cannot compute exactly is refused by name, never
approximated.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from llamastream.config import LlamaConfig, RopeScaling
from llamastream.errors import ModelError
from llamastream.models.families import BY_ARCHITECTURE, Family
from llamastream.models.fields import Fields

ROPE_TYPES = ("linear", "dynamic", "llama3")


def parse_config(values: Mapping[str, Any], source: Path) -> LlamaConfig:
    """Raises ModelError for a model we cannot run, naming `source` (the file) and the field."""
    fields = Fields(source, values.get)
    family = _family(fields)
    _refuse_unsupported(fields)
    heads = fields.integer("num_attention_heads")
    hidden = fields.integer("hidden_size")
    kv_heads = fields.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_attention_heads", f"a multiple of {kv_heads} KV heads", heads)
    context = fields.integer("max_position_embeddings", family.context)
    theta, scaling = _rope(fields, context)
    window = family.window(values, fields)
    return LlamaConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=_head_dim(fields, family, hidden, heads),
        max_position_embeddings=context if window is None else min(context, window),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        attention_bias=_bias(fields, "attention_bias", family.attention_bias),
        attention_output_bias=_bias(fields, "attention_bias", family.output_bias),
        mlp_bias=_bias(fields, "mlp_bias", family.mlp_bias),
        qk_norm=family.qk_norm,
    )


def _bias(fields: Fields, name: str, always: bool | None) -> bool:
    return fields.boolean(name, False) if always is None else always


def _family(fields: Fields) -> Family:
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    family = BY_ARCHITECTURE.get(name) if isinstance(name, str) else None
    if family is None:
        given = "nothing" if name is None else f"{name!r:.80}"
        raise ModelError(
            f"{fields.source}: the architecture must be one of {', '.join(BY_ARCHITECTURE)}. "
            f"Given: {given}. Choose a model of one of these."
        )
    return family


def _refuse_unsupported(fields: Fields) -> None:
    for name, only in (("hidden_act", "silu"), ("partial_rotary_factor", 1.0)):
        if (value := fields.get(name)) not in (None, only):
            raise fields.error(name, repr(only), value)


def _head_dim(fields: Fields, family: Family, hidden: int, heads: int) -> int:
    usual = family.head_dim
    if fields.get("head_dim") is None and usual is None and hidden % heads:
        raise fields.error("hidden_size", f"a multiple of {heads} attention heads", hidden)
    head_dim = fields.integer("head_dim", usual or hidden // heads)
    if head_dim % 2:
        raise fields.error("head_dim", "even", head_dim)
    return head_dim


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
