"""The tokenizer in a GGUF file's metadata, as one TokenizerConfig."""

from llamastream.config import LlamaConfig, TokenizerConfig
from llamastream.errors import ModelError
from llamastream.weights.gguf_metadata import Metadata
from llamastream.weights.tokenizer_json import Piece, byte_level_json, sentencepiece_json

PREFIX = "tokenizer.ggml."
# Files name one end token at most twice; these end a turn in every model that has them.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>")


def read_tokenizer(metadata: Metadata, config: LlamaConfig) -> TokenizerConfig:
    """Raises ModelError for a kind of tokenizer, or a way of cutting text, that we do not know."""
    kind = metadata.text(PREFIX + "model", "")
    if kind not in ("llama", "gpt2"):
        raise ModelError(
            f"{metadata.file}: {PREFIX}model must be 'llama' or 'gpt2'. Given: {kind!r}."
        )
    tokens = metadata.texts(PREFIX + "tokens")
    if len(tokens) > config.vocab_size:
        raise metadata.error(PREFIX + "tokens", f"at most {config.vocab_size} tokens long")
    kinds = _aligned(metadata, "token_type", tokens)
    bos = _token(metadata, "bos_token_id", tokens)
    split = metadata.text(PREFIX + "pre", "default")
    adds_bos = kind == "llama" or split == "llama-bpe"  # llama.cpp's defaults
    add_bos = metadata.boolean(PREFIX + "add_bos_token", adds_bos) and bos is not None
    template_bos = bos if add_bos else None
    if kind == "llama":
        text = sentencepiece_json(
            tokens,
            _scores(metadata, tokens),
            kinds,
            bos_id=template_bos,
            add_space_prefix=metadata.boolean(PREFIX + "add_space_prefix", True),
        )
    else:
        merges = metadata.texts(PREFIX + "merges")
        text = byte_level_json(tokens, merges, kinds, split=split, bos_id=template_bos)
    return TokenizerConfig(
        tokenizer_json=text,
        bos_token_id=bos,
        eos_token_ids=_ends(metadata, tokens, kinds),
        add_bos_token=add_bos,
        chat_template=metadata.optional_text("tokenizer.chat_template"),
    )


def _aligned(metadata: Metadata, key: str, tokens: list[str]) -> list[int]:
    values = metadata.integers(PREFIX + key)
    if len(values) != len(tokens):
        raise metadata.error(PREFIX + key, f"as long as the vocabulary, {len(tokens)}")
    return values


def _scores(metadata: Metadata, tokens: list[str]) -> list[float]:
    values = metadata.numbers(PREFIX + "scores")
    if len(values) != len(tokens):
        raise metadata.error(PREFIX + "scores", f"as long as the vocabulary, {len(tokens)}")
    return values


def _token(metadata: Metadata, key: str, tokens: list[str]) -> int | None:
    value = metadata.optional_integer(PREFIX + key)
    if value is not None and value >= len(tokens):
        raise metadata.error(PREFIX + key, f"below the vocabulary's size, {len(tokens)}")
    return value


def _ends(metadata: Metadata, tokens: list[str], kinds: list[int]) -> tuple[int, ...]:
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    named = [_token(metadata, key, tokens) for key in keys]
    control = {text: i for i, text in enumerate(tokens) if kinds[i] == Piece.CONTROL}
    found = [*named, *(control.get(text) for text in TURN_ENDS)]
    return tuple(dict.fromkeys(token for token in found if token is not None))
