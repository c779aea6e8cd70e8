"""The tokenizer in a GGUF file's metadata, as one TokenizerConfig."""

from collections.abc import Sequence
from typing import TypeVar

from llamastream.config import LlamaConfig, TokenizerConfig
from llamastream.models.checkpoint import Warn
from llamastream.models.fields import Fields
from llamastream.models.pre_tokenizers import CUTTINGS
from llamastream.models.tokenizer_json import (
    Piece,
    byte_level_json,
    sentencepiece_json,
    unique_texts,
)

T = TypeVar("T")
PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
    "sep_token": "seperator_token_id",  # so spelt by ggml
    "mask_token": "mask_token_id",
}
LLAMA3_BOS = 128_000  # where Llama 3's vocabulary, and no other, has <|begin_of_text|>
BYTE_TEXTS = {f"<0x{byte:02X}>" for byte in range(256)}


def read_tokenizer(
    metadata: Fields, keys: Sequence[str], config: LlamaConfig, warn: Warn
) -> TokenizerConfig:
    """keys: of the whole file. Raises ModelError for a kind of tokenizer, or a way of cutting text,
    that we do not know."""
    kind = metadata.text(PREFIX + "model", "")
    if kind not in ("llama", "gpt2"):
        raise metadata.error(PREFIX + "model", "'llama' or 'gpt2'", kind)
    tokens = metadata.items(PREFIX + "tokens", str)
    if len(tokens) > config.vocab_size:
        wanted = f"at most {config.vocab_size} tokens long"
        raise metadata.error(PREFIX + "tokens", wanted, len(tokens))
    ids = {name: _token(metadata, key, tokens) for name, key in NAMED.items()}
    ends = [_token(metadata, key, tokens) for key in ENDS]
    texts = unique_texts(tokens, {i for i in (*ids.values(), *ends) if i is not None})
    text, add_bos = _json(metadata, kind, tokens, texts.unique, ids["bos_token"], warn)
    templates = _chat_templates(metadata, keys, warn)
    return TokenizerConfig(
        tokenizer_json=text,
        bos_token_id=ids["bos_token"],
        eos_token_ids=tuple(dict.fromkeys(token for token in ends if token is not None)),
        add_bos_token=add_bos,
        chat_template=templates.get("default"),
        named_templates=templates,
        template_variables={
            name: tokens[i] for name, i in ids.items() if i is not None and i not in texts.odd
        },
        odd_pieces=texts.odd,
        vocab_size=config.vocab_size,
        source=str(metadata.source),
    )


def _json(
    metadata: Fields,
    kind: str,
    tokens: list[str],
    texts: list[str],
    bos: int | None,
    warn: Warn,
) -> tuple[str, bool]:
    """The tokenizer.json, and whether texts get a BOS in front."""
    kinds = _kinds(metadata, tokens, is_byte_level=kind == "gpt2")
    cutting = CUTTINGS[_cutting_name(metadata, tokens, warn) if kind == "gpt2" else "default"]
    adds_bos = kind == "llama" or cutting.add_bos  # llama.cpp's defaults
    add_bos = metadata.boolean(PREFIX + "add_bos_token", adds_bos) and bos is not None
    bos_id = bos if add_bos else None
    if kind == "gpt2":
        merges = _merges(metadata, texts, warn)
        return byte_level_json(texts, merges, kinds, cutting=cutting, bos_id=bos_id), add_bos
    scores = _aligned(metadata, "scores", float, tokens)
    prefix = metadata.boolean(PREFIX + "add_space_prefix", True)
    return sentencepiece_json(texts, scores, kinds, bos_id=bos_id, add_space_prefix=prefix), add_bos


def _cutting_name(metadata: Fields, tokens: list[str], warn: Warn) -> str:
    name = metadata.text(PREFIX + "pre", "")
    if not name and tokens[LLAMA3_BOS : LLAMA3_BOS + 1] == ["<|begin_of_text|>"]:
        warn(f"{PREFIX}pre is missing: the vocabulary is Llama 3's, so its way of cutting is taken")
        return "llama-bpe"
    if not name:
        warn(
            f"{PREFIX}pre is missing, so text may be cut into other tokens than the model learned. "
            "Convert the model again with a present llama.cpp, or use its Hugging Face folder"
        )
        return "default"
    if name not in CUTTINGS:
        raise metadata.error(
            PREFIX + "pre",
            f"one of {', '.join(sorted(CUTTINGS))}",
            name,
            "Use the model's Hugging Face folder, whose tokenizer.json says how it cuts text.",
        )
    return name


def _merges(metadata: Fields, texts: list[str], warn: Warn) -> list[tuple[str, str]]:
    """Those of which parts and result are tokens; llama.cpp finds no use for others either."""
    known = set(texts)
    found = [merge.partition(" ") for merge in metadata.items(PREFIX + "merges", str)]
    usable = [
        (left, right)
        for left, _, right in found
        if left in known and right in known and left + right in known
    ]
    if len(usable) != len(found):
        warn(f"{len(found) - len(usable)} of {len(found)} merges are of texts that are no tokens")
    return usable


def _kinds(metadata: Fields, tokens: list[str], *, is_byte_level: bool) -> list[int]:
    if metadata.get(PREFIX + "token_type") is not None:
        return _aligned(metadata, "token_type", int, tokens)
    if is_byte_level:
        return [Piece.NORMAL] * len(tokens)
    return [Piece.BYTE if text in BYTE_TEXTS else Piece.NORMAL for text in tokens]


def _aligned(metadata: Fields, key: str, kind: type[T], tokens: list[str]) -> list[T]:
    values = metadata.items(PREFIX + key, kind)
    if len(values) != len(tokens):
        wanted = f"as long as the vocabulary, {len(tokens)}"
        raise metadata.error(PREFIX + key, wanted, len(values))
    return values


def _token(metadata: Fields, key: str, tokens: list[str]) -> int | None:
    if metadata.get(PREFIX + key) is None:
        return None
    value = metadata.integer(PREFIX + key, least=0)
    if value >= len(tokens):
        raise metadata.error(PREFIX + key, f"below the vocabulary's size, {len(tokens)}", value)
    return value


def _chat_templates(metadata: Fields, keys: Sequence[str], warn: Warn) -> dict[str, str]:
    """Templates by name, the unnamed one as "default". One alone is the default by any name."""
    names = {TEMPLATE: "default"}
    names |= {
        key: key.removeprefix(TEMPLATE + ".") for key in keys if key.startswith(TEMPLATE + ".")
    }
    found = {}
    for key, name in names.items():
        try:
            if template := metadata.text(key, ""):
                found[name] = template
        except UnicodeError:
            warn(f"{key} is no UTF-8 and is left out")
    if len(found) == 1 and "default" not in found:
        found["default"] = next(iter(found.values()))
    elif found and "default" not in found:
        several = ", ".join(found)
        warn(f"none of its chat templates is the default: choose one, --chat-template {several}")
    return found
