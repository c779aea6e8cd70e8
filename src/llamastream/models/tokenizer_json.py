"""A `tokenizer.json` built from bare vocabularies: sentencepiece's pieces, or byte-level BPE.

Knows no file format: GGUF metadata and `tokenizer.model` files both end here. The invariant: the
result gives the ids that the vocabulary's own tokenizer gives.
"""

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from llamastream.errors import reading
from llamastream.models.pre_tokenizers import Cutting, normalizer, pre_tokenizer

SPACE = "\u2581"  # sentencepiece's visible space
MAX_JOINED_CHARS = 1024  # of a piece made by merges; sentencepiece's own limit is 16
_PLACE = "\ufdd0"  # no character at all, so no text holds it


class Piece(IntEnum):
    """What a vocabulary entry is, numbered as sentencepiece and GGUF number it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Texts(NamedTuple):
    """A vocabulary's texts, each there once, and the bytes, in hex, of those that had to go."""

    unique: list[str]
    odd: dict[int, str]


def unique_texts(tokens: Sequence[str], named_ids: Collection[int]) -> Texts:
    """Give a text to one id only, one of `named_ids` or else the first, and only if it is Unicode.

    tokens: bytes that are no UTF-8 as lone surrogates. The ids left over get texts of their own
    that occur nowhere.
    """
    owner: dict[str, int] = {}
    for token_id, text in enumerate(tokens):
        if token_id in named_ids or text not in owner:
            owner[text] = token_id
    unique, odd = list(tokens), {}
    for token_id, text in enumerate(tokens):
        if owner[text] != token_id or not _is_unicode(text):
            unique[token_id] = f"{_PLACE}{token_id}"
            odd[token_id] = text.encode("utf-8", "surrogateescape").hex()
    return Texts(unique, odd)


def sentencepiece_json(
    pieces: Sequence[str],
    scores: Sequence[float],
    kinds: Sequence[int],
    *,
    bos_id: int | None,
    add_space_prefix: bool = True,
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
    merges: Sequence[tuple[str, str]],
    kinds: Sequence[int],
    *,
    cutting: Cutting,
    bos_id: int | None,
) -> str:
    """A byte-level BPE in GPT-2's alphabet. merges: of `tokens`, most frequent first."""
    tokenizer = _bpe(tokens, merges, ignore_merges=cutting.whole_words)
    tokenizer.normalizer = normalizer(cutting)
    tokenizer.pre_tokenizer = pre_tokenizer(cutting)
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, tokens, kinds, bos_id)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _bpe(texts: Sequence[str], merges: Sequence[tuple[str, str]], **options: Any) -> Tokenizer:
    with reading("The tokenizer"):
        return Tokenizer(BPE({text: i for i, text in enumerate(texts)}, merges, **options))


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
        if kind == Piece.NORMAL and len(text) <= MAX_JOINED_CHARS
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
