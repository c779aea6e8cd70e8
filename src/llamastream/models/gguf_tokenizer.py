"""The tokenizer in a GGUF file's metadata, as one TokenizerConfig."""

from typing import TypeVar

from llamastream.config import LlamaConfig, TokenizerConfig
from llamastream.models.fields import Fields
from llamastream.models.tokenizer_json import Piece, byte_level_json, sentencepiece_json

T = TypeVar("T")
PREFIX = "tokenizer.ggml."
# Files name one end token at most twice; these end a turn in every model that has them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>")


def read_tokenizer(metadata: Fields, config: LlamaConfig) -> TokenizerConfig:
    """Raises ModelError for a kind of tokenizer, or a way of cutting text, that we do not know."""
    kind = metadata.text(PREFIX + "model", "")
    if kind not in ("llama", "gpt2"):
        raise metadata.error(PREFIX + "model", "'llama' or 'gpt2'", kind)
    tokens = metadata.items(PREFIX + "tokens", str)
    if len(tokens) > config.vocab_size:
        wanted = f"at most {config.vocab_size} tokens long"
        raise metadata.error(PREFIX + "tokens", wanted, len(tokens))
    kinds = _aligned(metadata, "token_type", int, tokens)
    bos = _token(metadata, "bos_token_id", tokens)
    split = metadata.text(PREFIX + "pre", "default")
    adds_bos = kind == "llama" or split == "llama-bpe"  # llama.cpp's defaults
    add_bos = metadata.boolean(PREFIX + "add_bos_token", adds_bos) and bos is not None
    template_bos = bos if add_bos else None
    if kind == "llama":
        text = sentencepiece_json(
            tokens,
            _aligned(metadata, "scores", float, tokens),
            kinds,
            bos_id=template_bos,
            add_space_prefix=metadata.boolean(PREFIX + "add_space_prefix", True),
        )
    else:
        merges = metadata.items(PREFIX + "merges", str)
        text = byte_level_json(tokens, merges, kinds, split=split, bos_id=template_bos)
    return TokenizerConfig(
        tokenizer_json=text,
        bos_token_id=bos,
        eos_token_ids=_ends(metadata, tokens, kinds),
        add_bos_token=add_bos,
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
    )


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


def _ends(metadata: Fields, tokens: list[str], kinds: list[int]) -> tuple[int, ...]:
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    named = [_token(metadata, key, tokens) for key in keys]
    control = {text: i for i, text in enumerate(tokens) if kinds[i] == Piece.CONTROL}
    found = [*named, *(control.get(text) for text in TURN_ENDS)]
    return tuple(dict.fromkeys(token for token in found if token is not None))
