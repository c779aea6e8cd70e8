"""What a model is and how the engine runs it. The only module that reads the environment.

Knows no files and no tensors: `weights` fills the descriptions of a model, `cli` the options.
"""

from dataclasses import dataclass
from typing import Literal

DType = Literal["int8", "float32"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Position interpolation of a long-context checkpoint: `rope_scaling` of `config.json`."""

    rope_type: Literal["linear", "dynamic", "llama3"]
    factor: float
    original_max_position_embeddings: int
    low_freq_factor: float = 1.0  # llama3 only
    high_freq_factor: float = 4.0  # llama3 only


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The shape of a Llama-family model, with transformers' names for the fields.

    `max_position_embeddings` is already the smaller of the checkpoint's value and its sliding
    window: we compute full attention, and inside one window the two are the same.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # q, k, v and o projections
    mlp_bias: bool = False  # gate, up and down projections


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Everything `chat` needs to turn text into ids and back, whatever file format it came from.

    `tokenizer_json` is the text of a Hugging Face `tokenizer.json`. `eos_token_ids` are all ids
    that end a turn (generation_config.json may name several). `add_bos_token` says whether plain
    text gets a BOS in front.
    """

    tokenizer_json: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos_token: bool
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the engine runs a model. None means: chosen from the model and the machine."""

    dtype: DType = "int8"
    max_num_seqs: int = 32  # sequences computed in one step
    max_num_batched_tokens: int = 512  # tokens computed in one step, decode and prefill together
    max_num_waiting: int = 256  # requests queued before new ones are refused
    max_model_len: int | None = None
    block_size: int = 32  # tokens in one KV cache block
    kv_cache_bytes: int | None = None
    enable_prefix_caching: bool = True
    threads: int | None = None
