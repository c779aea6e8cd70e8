"""What converters write for Llama 3.x, Mistral and Qwen, made small: each chats, and stops.

Each file differs in what such files differ in: which token is named as the end, of which type its
control tokens are, whether a BOS is named and wanted, how text is cut.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.doubles.tokenizer import byte_vocab
from tests.engine.driver import make_request, run_all
from tests.models.weights_builders import CONFIG, random_tensors, write_gguf
from tests.text.chat_builders import TEMPLATES

from llamastream.app import make_prompts
from llamastream.config import EngineConfig, ModelSettings, RopeScaling
from llamastream.engine.cpu_runner import CpuRunner
from llamastream.engine.llm_engine import LLMEngine
from llamastream.models import open_checkpoint
from llamastream.models.gguf_rope import llama3_factors
from llamastream.types import Message

LLAMA3 = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MISTRAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1


class Variant(NamedTuple):
    """control: its control tokens, the first ids; kind: their type in the file. end: what ends a
    turn. bos: what a prompt starts with, if anything."""

    template: str
    control: list[str]
    end: str
    bos: str | None
    keys: dict[str, Any]
    architecture: str = "LlamaForCausalLM"
    kind: int = CONTROL
    fields: dict[str, Any] = {}


def named(control: list[str], **names: str) -> dict[str, int]:
    return {f"{name}_token_id": control.index(text) for name, text in names.items()}


VARIANTS = {
    "llama 3.0": Variant(
        "llama3", LLAMA3, "<|eot_id|>", "<|begin_of_text|>",
        {"pre": "llama-bpe", **named(LLAMA3, bos=LLAMA3[0], eos=LLAMA3[1])},
    ),
    "llama 3.0 without its way of cutting": Variant(
        "llama3", LLAMA3, "<|eot_id|>", "<|begin_of_text|>",
        {"pre": "llama3", "add_bos_token": True, **named(LLAMA3, bos=LLAMA3[0], eos=LLAMA3[1])},
        kind=USER_DEFINED,
    ),
    "llama 3.1": Variant(
        "llama3", LLAMA3, "<|eot_id|>", "<|begin_of_text|>",
        {"pre": "llama-bpe",
         **named(LLAMA3, bos=LLAMA3[0], eos="<|eot_id|>", eot="<|eot_id|>", eom="<|eom_id|>")},
        fields={"head_dim": 64, "hidden_size": 256},
    ),
    "mistral of sentencepiece": Variant(
        "mistral", MISTRAL, "</s>", "<s>",
        {"model": "llama", "pre": "default", "add_space_prefix": False,
         **named(MISTRAL, bos="<s>", eos="</s>", unknown="<unk>")},
    ),
    "mistral nemo": Variant(
        "mistral", MISTRAL, "</s>", "<s>",
        {"pre": "tekken", **named(MISTRAL, bos="<s>", eos="</s>", unknown="<unk>")},
        fields={"head_dim": 12},
    ),
    "qwen2": Variant(
        "chatml", CHATML, "<|im_end|>", None,
        {"pre": "qwen2", "add_bos_token": False,
         **named(CHATML, bos=CHATML[0], eos="<|im_end|>", padding=CHATML[0])},
        "Qwen2ForCausalLM",
    ),
    "qwen2, whose end is that of texts": Variant(
        "chatml", CHATML, "<|im_end|>", None,
        {"pre": "qwen2", **named(CHATML, eos=CHATML[0])},
        "Qwen2ForCausalLM", NORMAL, {"tie_word_embeddings": True},
    ),
    "qwen3": Variant(
        "chatml", CHATML, "<|im_end|>", None,
        {"pre": "qwen2", "add_bos_token": False,
         **named(CHATML, bos=CHATML[0], eos="<|im_end|>", padding=CHATML[0])},
        "Qwen3ForCausalLM", fields={"head_dim": 24},
    ),
}  # fmt: skip


def write(file: Path, variant: Variant) -> list[str]:
    """The vocabulary: control tokens, then one token for each byte."""
    is_spm = variant.keys.get("model") == "llama"
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] if is_spm else list(byte_vocab())
    tokens = [*variant.control, *pieces, *(["\u2581"] if is_spm else [])]
    count = len(variant.control)
    kinds = [variant.kind] * count + [6 if is_spm else NORMAL] * 256 + [NORMAL] * is_spm
    if is_spm:
        kinds[0] = 2
    config = {**CONFIG, "vocab_size": len(tokens), "architectures": [variant.architecture]}
    config |= variant.fields
    head = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
    architecture = head.get(variant.architecture, "llama")
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [0.0] * len(tokens) if is_spm else None,
        "tokenizer.ggml.merges": None if is_spm else [f"{pieces[97]} {pieces[98]}"],
        "tokenizer.ggml.bos_token_id": None,
        "tokenizer.ggml.eos_token_id": None,
        "tokenizer.chat_template": TEMPLATES[variant.template],
        f"{architecture}.attention.key_length": config.get("head_dim"),
    }
    keys |= {f"tokenizer.ggml.{key}": value for key, value in variant.keys.items()}
    tensors = random_tensors(config)
    for name in [
        name for name in tensors if "self_attn" in name and name.endswith("k_proj.weight")
    ]:
        prefix, dim = name.removesuffix("k_proj.weight"), config.get("head_dim", 4)
        if architecture == "qwen2":
            for part in "qkv":
                rows = len(tensors[f"{prefix}{part}_proj.weight"])
                tensors[f"{prefix}{part}_proj.bias"] = np.ones(rows, np.float32)
        if architecture == "qwen3":
            tensors |= {f"{prefix}{part}_norm.weight": np.ones(dim, np.float32) for part in "qk"}
    extra = {}
    if config["hidden_size"] == 256:
        keys["llama.rope.freq_base"] = 500000.0
        factors = llama3_factors(RopeScaling("llama3", 8.0, 8192), 64, 500000.0)
        extra["rope_freqs.weight"] = factors.astype(np.float32)
    write_gguf(file, config=config, tensors=tensors, metadata=keys, extra=extra)
    return tokens


@pytest.mark.parametrize("name", VARIANTS)
def test_a_small_file_of_each_kind_chats_and_stops(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    file = tmp_path / "m.gguf"
    tokens = write(file, variant)
    checkpoint = open_checkpoint(str(file), cache_dir=tmp_path)
    tokenizer, prompts = make_prompts(checkpoint, ModelSettings())
    end = tokens.index(variant.end)
    assert end in tokenizer.eos_token_ids
    prompt = prompts.build([Message("user", f"Hi {variant.end} you")])
    text = tokenizer.decode(prompt, skip_special_tokens=False)
    assert f"Hi {variant.end} you" in text
    controls = [tokens[i] for i in prompt if i < len(variant.control)]
    assert controls.count(variant.bos) == 1 if variant.bos else tokens[prompt[0]] == "<|im_start|>"
    # What a user types ends no turn: there is none but the template's own.
    assert controls.count(variant.end) == (0 if variant.template == "mistral" else 1)
    engine = EngineConfig(dtype="float32", block_size=16, max_num_seqs=1, threads=1)
    runner = CpuRunner.load(checkpoint.config, engine, checkpoint.stored_tensors)
    request = make_request(
        "a",
        prompt,
        max_tokens=5,
        logit_bias=((end, 100.0),),
        stop_token_ids=frozenset(tokenizer.eos_token_ids),
    )
    outcome = run_all(LLMEngine(runner, engine), [request])["a"]
    assert outcome.end is not None and outcome.end.reason == "stop"
    assert outcome.token_ids in ([], [end])
