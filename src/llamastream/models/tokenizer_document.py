"""Changes to a parsed tokenizer.json that the files beside it ask for.

Each gives back the document itself where nothing is to be changed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from llamastream.models.tokenizer_json import SPACE

Document = dict[str, Any]


class Added(NamedTuple):
    """A token beside the model's own vocabulary, found whole in a text."""

    text: str
    is_special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def entry(self, token_id: int) -> Document:
        """As tokenizer.json lists it."""
        return {
            "id": token_id,
            "content": self.text,
            "single_word": self.single_word,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "normalized": self.normalized,
            "special": self.is_special,
        }


def token_ids(document: Document) -> dict[str, int]:
    """The ids of all texts, those of added tokens before those of the vocabulary."""
    vocabulary = dict((document.get("model") or {}).get("vocab") or {})
    added = document.get("added_tokens") or ()
    return vocabulary | {token["content"]: token["id"] for token in added}


def with_added_tokens(document: Document, added: Mapping[int, Added]) -> Document:
    """`document` with those of `added` that it lacks, each with its own id.

    The library gives a token that the vocabulary lacks the next free id, whatever the file says:
    where the file leaves ids out, its tokens go into the vocabulary, which holds any ids.
    """
    known = token_ids(document)
    entries = list(document.get("added_tokens") or ())
    listed = {entry["content"] for entry in entries}
    entries += [
        token.entry(known.get(token.text, token_id))
        for token_id, token in sorted(added.items())
        if token.text not in listed
    ]
    entries.sort(key=lambda entry: entry["id"])
    model = document["model"]
    vocabulary: dict[str, int] = model["vocab"]
    outside = [entry for entry in entries if entry["content"] not in vocabulary]
    first = len(vocabulary)
    has_gaps = any(entry["id"] != first + n for n, entry in enumerate(outside))
    if not has_gaps and len(entries) == len(listed):
        return document
    if has_gaps:
        taken = set(vocabulary.values())
        free = {e["content"]: e["id"] for e in outside if e["id"] not in taken}
        model = {**model, "vocab": vocabulary | free}
    return {**document, "added_tokens": entries, "model": model}


def with_prefix_space(document: Document, *, legacy: bool) -> Document:
    """`document`, of a sentencepiece BPE, with a space in front of texts: of every text between
    control tokens (`legacy`), or of the first one only.

    Any other way of cutting text is left alone. Source: transformers' LlamaTokenizer.
    """
    if not _is_sentencepiece_bpe(document):
        return document
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    first = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoder = document.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    changes = {
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if legacy else None,
        "pre_tokenizer": None if legacy else first,
        "decoder": {
            "type": "Sequence",
            "decoders": steps if strip in steps else [*steps, strip],
        },
    }
    is_so = all(document.get(name) == change for name, change in changes.items())
    return document if is_so else document | changes


def _is_sentencepiece_bpe(document: Document) -> bool:
    """Whether spaces are all that a text has changed before its merges."""
    if not (document.get("model") or {}).get("byte_fallback"):
        return False
    normalizer = document.get("normalizer") or {}
    kinds = {step.get("type") for step in normalizer.get("normalizers", [normalizer])}
    pre_tokenizer = document.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds |= {step.get("type") for step in steps}
    return kinds <= {None, "Prepend", "Replace", "Metaspace"}
