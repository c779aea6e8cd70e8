"""What a model is, how the engine runs it, and every option of the command line.

Knows no model files and no tensors: `models` fills the descriptions of a model; where options come
from is `settings`' affair.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from llamastream.errors import ConfigError
from llamastream.sampling import MAX_SEED
from llamastream.settings import COMMAS, Settings, default_data_dir, split_commas
from llamastream.tools import CallSyntax

DType = Literal["int8", "int4", "float32", "bfloat16"]
Speculation = Literal["auto", "off"]


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
    attention_bias: bool = False  # q, k and v projections
    attention_output_bias: bool = False
    mlp_bias: bool = False  # gate, up and down projections
    qk_norm: bool = False  # a norm of every head's query and key before its rotation


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Everything `text` needs to turn text into ids and back, whatever file format it came from.

    `tokenizer_json` is the text of a Hugging Face `tokenizer.json`. `eos_token_ids` are the ids
    that the files say end a turn; the chat template may tell of more. `add_bos_token` says whether
    plain text gets a BOS in front. `named_templates` are those beside the default one.
    `template_variables` are what a template knows by names such as `eos_token`. `odd_pieces` are
    the bytes, in hex, of ids that the JSON can only hold a place for. `vocab_size` is the model's.
    """

    tokenizer_json: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos_token: bool
    chat_template: str | None = None
    named_templates: dict[str, str] = field(default_factory=dict)
    template_variables: dict[str, str] = field(default_factory=dict)
    odd_pieces: dict[int, str] = field(default_factory=dict)
    vocab_size: int | None = None
    source: str = "tokenizer.json"  # the file to name in errors


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the engine runs a model. None means: chosen from the model and the machine."""

    dtype: DType = "int8"
    max_num_seqs: int = 32  # sequences computed in one step
    max_num_batched_tokens: int = 512  # tokens computed in one step, decode and prefill together
    max_prefill_beside_decode: int | None = 112  # of prompts beside answers; None: by measured time
    max_num_waiting: int = 256  # requests queued before new ones are refused
    max_model_len: int | None = None
    block_size: int = 32  # tokens in one KV cache block
    kv_cache_bytes: int | None = None
    enable_prefix_caching: bool = True
    speculation: Speculation = "auto"
    threads: int | None = None
    isa: str = "auto"  # kernels of the CPU; tests also take "amx-model"


GIB = 2**30

DATA_DIR: Path = Field(
    default_factory=default_data_dir, description="Folder for models and conversations."
)


COMPUTED_HERE = {
    *("device", "dtype", "max_num_batched_tokens", "max_prefill_beside_decode", "kv_cache_gib"),
    *("packed_max_gib", "prefix_caching", "speculation", "threads", "isa"),
}
"""Options of ModelSettings that are of an engine on this machine alone."""


class DataSettings(Settings):
    """Where everything is kept, for commands that run no model."""

    data_dir: Path = DATA_DIR


API_KEYS_FILE: Path | None = Field(
    None, description="TOML file of API keys and their limits, which `llamastream keys` writes."
)


class ModelSettings(Settings):
    """Which model, and how it is run."""

    model: str = Field(
        "demo",
        description="'demo', a Hugging Face id such as meta-llama/Llama-2-7b-chat-hf, a folder, "
        "or a .gguf file.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face model.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$",
        description="auto, cpu, cuda or cuda:1. auto takes a GPU that can be used.",
    )
    dtype: DType = Field(
        "int8",
        description="Precision of the weights: int8, int4 or float32; on a GPU also bfloat16.",
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Longest prompt and answer together, in tokens. [the model's own]"
    )
    max_num_seqs: int = Field(32, ge=1, le=1024, description="Streams computed at the same time.")
    max_num_batched_tokens: int = Field(
        512,
        ge=1,
        le=65536,
        description="Tokens computed in one step, prompts and answers together.",
    )
    max_prefill_beside_decode: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="Prompt tokens in a step that continues answers. [by measured time]",
    )
    max_num_waiting: int = Field(
        256, ge=0, description="Requests that may queue before new ones are answered 429."
    )
    kv_cache_gib: float | None = Field(
        None, gt=0, description="Memory for the KV cache, in GiB. [fits streams and machine]"
    )
    packed_max_gib: float | None = Field(
        None,
        gt=0,
        description="Disk for packed weights, in GiB: unused longest go first. [no limit]",
    )
    prefix_caching: bool = Field(True, description="Compute a prompt's known beginning only once.")
    speculation: Speculation = Field(
        "auto",
        description="auto computes several tokens at once where a text repeats, off never does. "
        "The tokens are the same.",
    )
    threads: int | None = Field(None, ge=1, le=256, description="CPU threads. [all cores]")
    isa: str = Field(
        "auto",
        pattern=r"^(auto|amx|avx512|avxvnni|avx2|i8mm|neon|portable)$",
        description="Instruction set of a CPU: amx, avx512, avxvnni, avx2, i8mm, neon or portable. "
        "auto takes the fastest that is here. The tokens are the same.",
    )
    chat_template: str | None = Field(
        None, description="llama2, llama3, chatml or a Jinja file, instead of the model's own."
    )
    tool_format: CallSyntax | None = Field(
        None,
        description="How the model writes calls: llama, pythonic, hermes, mistral or generic. "
        "[as its chat template does]",
    )
    allow_prompt_tags: bool = Field(
        False, description="Accept Llama 2's [INST] and <<SYS>> tags inside messages."
    )
    data_dir: Path = DATA_DIR

    def engine_config(self) -> EngineConfig:
        """These options in the engine's own terms."""
        return EngineConfig(
            dtype=self.dtype,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_prefill_beside_decode=self.max_prefill_beside_decode,
            max_num_waiting=self.max_num_waiting,
            max_model_len=self.max_model_len,
            kv_cache_bytes=None if self.kv_cache_gib is None else int(self.kv_cache_gib * GIB),
            enable_prefix_caching=self.prefix_caching,
            speculation=self.speculation,
            threads=self.threads,
            isa=self.isa,
        )


class EngineSettings(Settings):
    """Engines on other machines that compute in place of this one."""

    engine_url: Annotated[tuple[str, ...], COMMAS] = Field(
        (),
        description="Address of a `vllm serve` that computes the model instead of this machine, "
        "e.g. http://gpu1:8000; several times, or with commas, for several. [none]",
    )
    engine_api_key: str | None = Field(None, description="The key that these engines ask for.")

    def check_beside(self, model: ModelSettings) -> None:
        """Raises ConfigError for what is about a computation here, where there is none."""
        given = sorted(model.model_fields_set & COMPUTED_HERE)
        if given:
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is about the engine of this machine, and with "
                "--engine-url another one computes. Leave it out, and set there what you need."
            )


class AnswerSettings(Settings):
    """How the terminal commands draw their answers; None leaves it to the model.

    The ranges are those of SamplingParams, looked at before a model is loaded.
    """

    temperature: float | None = Field(
        None, ge=0, le=100, description="0 always takes the likeliest word. [the model's own]"
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Share of the likeliest words to draw from. [the model's own]"
    )
    max_tokens: int = Field(1024, ge=1, le=2**31 - 1, description="Longest answer, in tokens.")
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Same seed, same answer. [a new one each time]"
    )


def _holds_a_key(value: str | None) -> str | None:
    """An empty variable must not open a public address to everybody."""
    if value is not None and not split_commas(value):
        raise ValueError("must hold a key; leave it out for none")
    return value


class ServeSettings(Settings):
    """Where the service listens and whom it answers."""

    host: str = Field("127.0.0.1", description="Address to listen on. A public one needs a key.")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for jina clients (gRPC); 0 takes a free one. [12345 if it is free]",
    )
    api_key: Annotated[str | None, AfterValidator(_holds_a_key)] = Field(
        None, description="Secret that clients send as a Bearer token; several with commas."
    )
    api_keys_file: Path | None = API_KEYS_FILE
    served_model_name: str | None = Field(
        None, description="Name of the model in the API. [the model's own]"
    )
    max_body_mib: float = Field(4.0, gt=0, le=1024, description="Largest request accepted, in MiB.")
    ping_interval_s: float = Field(
        15.0, gt=0, description="Seconds of silence after which a stream sends a comment."
    )
    reader_timeout: float = Field(
        60.0,
        ge=1,
        description="Seconds after which a connection is closed whose other end is silent or "
        "takes nothing. What is stored can be read on later.",
    )
    max_connections: int = Field(
        2048,
        ge=1,
        description="Connections at a time, on HTTP and on gRPC each. Over it, one that sends no "
        "request gives way; where all are being answered, the new one is a 503.",
    )
    max_connections_per_address: int = Field(
        512,
        ge=1,
        description="Of these, HTTP connections of one address that is not this machine's.",
    )
    cors_origins: str | None = Field(
        None,
        description="Web origins that may call the service from a browser, e.g. "
        "https://chat.example.org; several with commas, * for all. [none]",
    )
    allowed_hosts: str | None = Field(
        None,
        description="Names by which a server without a key may be called, beside localhost and IP "
        "addresses, e.g. chat.example.org; several with commas, * for all. [none]",
    )
    page: bool = Field(True, description="Serve the chat page at /.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much to log: debug, info, warning or error."
    )

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mib * 2**20)


class StoreSettings(Settings):
    """What outlives the server, and how surely."""

    store: str | None = Field(
        None,
        description="Database URL, e.g. postgresql://user@host/name. [llamastream.db in data_dir]",
    )
    store_wait: float = Field(
        30.0, ge=0, description="Seconds that the start waits for a PostgreSQL that is not up yet."
    )
    kv_disk_gib: float | None = Field(
        None,
        ge=0,
        description="Disk for what was computed for stored answers, in GiB; 0 keeps nothing. "
        "[a tenth of the free space, at most 20]",
    )
    server_name: str = Field(
        "main", description="What logs and the database call this server, e.g. its machine's name."
    )
    durability: Literal["normal", "full", "off"] = Field(
        "normal",
        description="normal survives a killed server, full also a power cut; with off, an "
        "interrupted answer is generated again from its start.",
    )
    on_store_failure: Literal["fail", "continue"] = Field(
        "fail",
        description="When the disk is full or the database gone: interrupt stored streams until "
        "it is back (fail), or go on without durability (continue).",
    )
    grace: float = Field(
        60.0, gt=0, description="Seconds that a stored answer goes on with nobody following it."
    )
    drain_timeout: float = Field(
        30.0,
        ge=0,
        description="Seconds that open streams have to finish after SIGTERM. Stored ones that "
        "have not are resumed by the next start.",
    )
    retain_days: float | None = Field(
        30.0, gt=0, description="Days after which conversations and answers are forgotten."
    )
    retain_responses: int | None = Field(None, ge=0, description="Answers kept at most. [no limit]")
    retain_conversations: int | None = Field(
        None, ge=0, description="Conversations kept at most. [no limit]"
    )
    max_conversation_items: int = Field(
        10_000, ge=1, description="Items that one conversation may hold."
    )
    max_conversation_mib: float = Field(
        16.0, gt=0, le=1024, description="Size that one conversation may have, in MiB."
    )

    @property
    def is_postgres(self) -> bool:
        return (self.store or "").startswith("postgres")


class BenchSettings(Settings):
    """The cells of a benchmark."""

    concurrency: Annotated[tuple[PositiveInt, ...], COMMAS] = Field(
        (1, 8, 32), description="Streams at once, one cell for each number. [1,8,32]"
    )
    prompt_tokens: int = Field(64, ge=1, description="Length of the prompts.")
    output_tokens: int = Field(128, ge=2, description="Length of the answers.")
    prefill_tokens: int = Field(512, ge=0, description="Length of a lone prompt; 0 leaves it out.")
    rounds: int = Field(3, ge=1, description="Times that everything is measured.")


class LoadSettings(Settings):
    """How servers are asked, and what more is asked of them."""

    api: Literal["completions", "chat"] = Field(
        "completions", description="OpenAI's interface to ask: completions or chat."
    )
    ignore_eos: bool = Field(
        True, description="Ask for answers of full length; some servers refuse that."
    )
    request_rates: Annotated[tuple[PositiveFloat, ...], COMMAS] = Field(
        (), description="Arrivals per second, one cell for each. [none]"
    )
    mixed: bool = Field(False, description="Also new prompts arriving while streams run.")
