"""What bytes a token stands for, in the two families of tokenizers that Llama models use.

SentencePiece with byte fallback writes a space as U+2581 and a raw byte as the piece `<0xNN>`.
Byte-level BPE writes every byte as one printable character (GPT-2's table). Added tokens stand for
their own text. The invariant: the bytes of a sequence are the joined bytes of its tokens, but for
one leading space that some SentencePiece tokenizers put before every text and take off again.
"""

import json
import re
from typing import Any, NamedTuple

from llamastream.errors import ModelError

METASPACE = "\u2581"  # SentencePiece's mark for a space
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class PieceRules(NamedTuple):
    """How pieces become bytes, read from `decoder` in `tokenizer.json`."""

    byte_level: bool
    metaspace: bool  # U+2581 is a space
    byte_fallback: bool  # `<0xNN>` is a byte
    strip_leading_space: bool  # the first piece loses one leading U+2581

    def to_bytes(self, piece: str, *, added: bool) -> bytes:
        """The bytes of one piece; `added` for a token that is not of the model's vocabulary."""
        if self.byte_level:
            return piece.encode() if added else _byte_level_bytes(piece)
        if self.byte_fallback and not added and (match := _BYTE_PIECE.fullmatch(piece)):
            return bytes((int(match[1], 16),))
        return (piece.replace(METASPACE, " ") if self.metaspace else piece).encode()

    def odd_bytes(self, raw: bytes) -> bytes:
        """The bytes of a piece that is no text."""
        return raw.replace(METASPACE.encode(), b" ") if self.metaspace else raw


def piece_rules(decoder_json: bytes | str) -> PieceRules:
    """Read the rules from a decoder's JSON. Raises ModelError for a decoder we do not know."""
    decoder = json.loads(decoder_json)
    if not decoder:
        raise ModelError("tokenizer.json: decoder must not be null: it says how pieces make text.")
    steps: list[dict[str, Any]] = (
        decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    )
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return PieceRules(True, False, False, False)
    unknown = [step for step in steps if not _is_sentencepiece_step(step)]
    if unknown:
        raise ModelError(
            "tokenizer.json: decoder must be ByteLevel (byte-level BPE) or made of Replace, "
            "ByteFallback, Fuse, Strip and Metaspace (SentencePiece). "
            f"Given: {json.dumps(unknown[0])[:200]}."
        )
    return PieceRules(
        byte_level=False,
        metaspace="Replace" in kinds or "Metaspace" in kinds,
        byte_fallback="ByteFallback" in kinds,
        strip_leading_space=any(map(_strips_leading_space, steps)),
    )


def _is_sentencepiece_step(step: dict[str, Any]) -> bool:
    match step["type"]:
        case "ByteFallback" | "Fuse":
            return True
        case "Replace":
            return (step["pattern"], step["content"]) == ({"String": METASPACE}, " ")
        case "Strip":
            return step["content"] == " " and step["start"] in (0, 1) and step["stop"] == 0
        case "Metaspace":
            return bool(step["replacement"] == METASPACE)
        case _:
            return False


def _strips_leading_space(step: dict[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    return bool(step["type"] == "Strip" and step["start"] == 1)


def _byte_level_bytes(piece: str) -> bytes:
    try:
        return bytes(map(_BYTE_OF_CHAR.__getitem__, piece))
    except KeyError:  # not written in the table, so it stands for itself
        return piece.encode()


def _byte_of_char() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the rest for U+0100 and upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = (byte for byte in range(0x100) if chr(byte) not in table)
    return table | {chr(0x100 + n): byte for n, byte in enumerate(rest)}


_BYTE_OF_CHAR = _byte_of_char()
