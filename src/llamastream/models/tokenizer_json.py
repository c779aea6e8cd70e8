"""A `tokenizer.json` built from bare vocabularies: sentencepiece's pieces, or byte-level BPE.

Knows no file format: GGUF metadata and `tokenizer.model` files both end here. The invariant: the
result gives the ids that the vocabulary's own tokenizer gives.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE

from llamastream.errors import ModelError

SPACE = "\u2581"  # sentencepiece's visible space
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How text is cut before byte-level BPE, by the name GGUF gives it: regular expressions, each
# applied to the pieces of the one before.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (GPT2_SPLIT,),
    "smollm": (r"\p{N}", GPT2_SPLIT),
    "llama-bpe": (LLAMA3_SPLIT,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}


class Piece(IntEnum):
    """What a vocabulary entry is, numbered as sentencepiece and GGUF number it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def sentencepiece_json(
    pieces: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    bos_id: int | None,
    add_space_prefix: bool,
) -> str:
    """A byte-fallback BPE equal to sentencepiece's BPE model. `bos_id` None adds no BOS."""
    unknown = next((text for text, kind in zip(pieces, kinds, strict=True) if kind == 2), None)
    merges = _merges_by_score(pieces, scores, kinds)
    tokenizer = _bpe(pieces, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    prepend = [normalizers.Prepend(SPACE)] if add_space_prefix else []
    strip = [decoders.Strip(" ", 1, 0)] if add_space_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    show_space = decoders.Replace(SPACE, " ")
    tokenizer.decoder = decoders.Sequence(
        [show_space, decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return _finish(tokenizer, pieces, kinds, bos_id)


def byte_level_json(
    tokens: Sequence[str],
    merges: Sequence[str],
    kinds: Sequence[int],
    *,
    split: str,
    bos_id: int | None,
) -> str:
    """A byte-level BPE in GPT-2's alphabet. Raises ModelError for a `split` we do not know.

    merges: "left right", most frequent first. split: a key of SPLITS or ALIASES.
    """
    name = ALIASES.get(split, split)
    if name not in SPLITS:
        raise ModelError(
            f"tokenizer.ggml.pre must be one of {', '.join(SPLITS)}. Given: {split!r}. Use the "
            "model's Hugging Face folder, whose tokenizer.json says how it cuts text."
        )
    pairs = [merge.partition(" ")[::2] for merge in merges]
    tokenizer = _bpe(tokens, pairs, ignore_merges=name == "llama-bpe")
    cuts = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in SPLITS[name]]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, tokens, kinds, bos_id)


def with_space_prefix(document: dict[str, Any]) -> dict[str, Any] | None:
    """`document` (a parsed tokenizer.json) with sentencepiece's leading space; None if it fits.

    Some converted Llama tokenizers lost it: they only replace spaces. Any other way of cutting text
    is left alone.
    """
    normalizer = document.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    only_replaces = [step.get("type") for step in steps] == ["Replace"]
    byte_fallback = (document.get("model") or {}).get("byte_fallback")
    if not (byte_fallback and only_replaces) or document.get("pre_tokenizer"):
        return None
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoder = document.get("decoder") or {}
    decoders = [*decoder.get("decoders", [decoder]), strip]
    prepend = {"type": "Prepend", "prepend": SPACE}
    return {
        **document,
        "normalizer": {"type": "Sequence", "normalizers": [prepend, *steps]},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _bpe(texts: Sequence[str], merges: Sequence[tuple[str, str]], **options: Any) -> Tokenizer:
    try:
        return Tokenizer(BPE({text: i for i, text in enumerate(texts)}, merges, **options))
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(f"the tokenizer's merges do not fit its tokens: {error}") from error


def _merges_by_score(
    pieces: Sequence[str], scores: Sequence[float], kinds: Sequence[int]
) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, the best-scored third first.

    sentencepiece joins whatever adjacent pair forms the best-scored piece; a list of merges in that
    order says the same. Joins of equal score keep transformers' order: the longer parts first.
    """
    joinable = {
        text: score
        for text, score, kind in zip(pieces, scores, kinds, strict=True)
        if kind == Piece.NORMAL
    }
    ranked = [
        (score, cut, len(text) - cut, text[:cut], text[cut:])
        for text, score in joinable.items()
        for cut in range(1, len(text))
        if text[:cut] in joinable and text[cut:] in joinable
    ]
    ranked.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in ranked]


def _finish(
    tokenizer: Tokenizer, texts: Sequence[str], kinds: Sequence[int], bos_id: int | None
) -> str:
    """The JSON of `tokenizer`, to which its control tokens and the BOS in front are added."""
    of_kind = {kind: [t for t, k in zip(texts, kinds, strict=True) if k == kind] for kind in Piece}
    control = [*of_kind[Piece.UNKNOWN], *of_kind[Piece.CONTROL]]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False) for text in of_kind[Piece.USER_DEFINED]]
    )
    if bos_id is not None:
        bos = texts[bos_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B:0"], special_tokens=[(bos, bos_id)]
        )
    document: str = tokenizer.to_str()
    return document
