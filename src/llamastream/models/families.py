"""The families of models that run: what each is called in files, and what it does its own way.

A family is one entry below: readers, core and oracle take all else from the configuration and from
spec.py's one table of tensors. Names and defaults are those of transformers and of llama.cpp.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llamastream.models.fields import Fields

MISTRAL_WINDOW = 4096  # transformers' default where config.json has no such key
QWEN_FULL_LAYERS = 28  # the same, of max_window_layers


def _no_window(values: Mapping[str, Any], fields: Fields) -> int | None:
    return None


def _mistral_window(values: Mapping[str, Any], fields: Fields) -> int | None:
    if values.get("sliding_window", MISTRAL_WINDOW) is None:
        return None
    return fields.integer("sliding_window", MISTRAL_WINDOW)


def _qwen_window(values: Mapping[str, Any], fields: Fields) -> int | None:
    """That of the layers from `max_window_layers` on, where it is switched on."""
    full = fields.integer("max_window_layers", QWEN_FULL_LAYERS, least=0)
    is_used = fields.boolean("use_sliding_window", False)
    if not is_used or full >= fields.integer("num_hidden_layers"):
        return None
    return fields.integer("sliding_window", MISTRAL_WINDOW)


class Family(NamedTuple):
    """architecture, gguf: its names in config.json and in `general.architecture`.

    context, head_dim: where config.json has none; no head_dim: hidden_size divided by the heads.
    attention_bias (of q, k and v), output_bias, mlp_bias: None where config.json says.
    window: positions that attention sees at most, None for all.
    is_interleaved: in GGUF files the rows of q and k are in the order of Llama's first release.
    """

    architecture: str
    gguf: str
    context: int
    head_dim: int | None = None
    attention_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False
    window: Callable[[Mapping[str, Any], Fields], int | None] = _no_window
    is_interleaved: bool = False


FAMILIES: tuple[Family, ...] = (
    Family("LlamaForCausalLM", "llama", 2048, mlp_bias=None, is_interleaved=True),
    Family(
        "MistralForCausalLM",
        "llama",
        2048,
        attention_bias=False,
        output_bias=False,
        window=_mistral_window,
        is_interleaved=True,
    ),
    Family(
        "Qwen2ForCausalLM",
        "qwen2",
        32768,
        attention_bias=True,
        output_bias=False,
        window=_qwen_window,
    ),
    Family("Qwen3ForCausalLM", "qwen3", 32768, head_dim=128, qk_norm=True, window=_qwen_window),
)
BY_ARCHITECTURE: dict[str, Family] = {family.architecture: family for family in FAMILIES}
# Of files, "llama" is Mistral as well: they state all in which the two differ.
BY_GGUF: dict[str, Family] = {family.gguf: family for family in reversed(FAMILIES)}
