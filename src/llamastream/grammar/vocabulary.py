"""A model's tokens as the grammars' parser sees them, and which of them it may use at all."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import llguidance
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint32]
# In place of a control token's text: what nobody writes.
NO_TEXT = "\U0010ffff"


@dataclass(frozen=True)
class Vocabulary:
    """`size`: of the model's logits. Everything is made at its first
    use, which takes a second: never on the event loop.

    `starts_with_space`: whether the first place of a text takes a space off this token.
    """

    tokenizer_json: str
    size: int
    num_tokens: int  # of the tokenizer, which may have more
    token_bytes: Callable[[int], bytes]
    special_ids: frozenset[int]
    stop_ids: tuple[int, ...]  # that end an answer
    strips_leading_space: bool
    starts_with_space: Callable[[int], bool]

    @property
    def num_words(self) -> int:
        """Of a mask."""
        return -(-self.size // 32)

    @cached_property
    def parser(self) -> llguidance.LLTokenizer:
        stops = list(self.stop_ids) or None
        most = max(self.size, self.num_tokens)
        known = _without_control_texts(self.tokenizer_json, self.special_ids)
        return llguidance.LLTokenizer(known, n_vocab=most, eos_token=stops)

    @cached_property
    def text_ids(self) -> Mask:
        """Tokens that are text, and the same text for the parser as for us."""
        decode = self.parser.decode_bytes
        return self.mask_of(
            token_id
            for token_id in range(self.size)
            if token_id not in self.special_ids
            and (raw := self.token_bytes(token_id))
            and decode([token_id]) == raw
        )

    @cached_property
    def all_ids(self) -> Mask:
        return self.mask_of(range(self.size))

    @cached_property
    def new_line_ids(self) -> Mask:
        """Tokens of nothing else."""
        texts = ((i, self.token_bytes(i)) for i in range(self.size))
        return self.mask_of(i for i, raw in texts if raw and not raw.strip(b"\n"))

    @cached_property
    def stops(self) -> Mask:
        return self.mask_of(i for i in self.stop_ids if i < self.size)

    @cached_property
    def first_ids(self) -> Mask:
        """Tokens that the first place of a text shows as the parser sees them, but for a space in
        front that it takes off: a space that stays is none of them."""
        if not self.strips_leading_space:
            return self.text_ids
        taken = self.mask_of(filter(self.starts_with_space, range(self.size)))
        return self.text_ids & ~(self.space_ids & ~taken)

    @cached_property
    def space_ids(self) -> Mask:
        """Tokens that begin with a space."""
        return self.mask_of(i for i in range(self.size) if self.token_bytes(i)[:1] == b" ")

    def is_text(self, token_id: int) -> bool:
        return bool(self.text_ids[token_id // 32] >> (token_id % 32) & 1)

    def mask_of(self, token_ids: Iterable[int]) -> Mask:
        bits = np.zeros(self.num_words * 32, np.uint8)
        bits[list(token_ids)] = 1
        return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def _without_control_texts(tokenizer_json: str, special_ids: frozenset[int]) -> str:
    """The same tokenizer, but that no text is a control token.

    The parser takes what the tokenizer makes of a text for the only way to write what is forced; so
    a constant that holds a control token's text could not be written. What is not flagged and in
    angle brackets is none of its texts either.
    """
    data = json.loads(tokenizer_json)
    names: dict[str, str] = {}
    for token in data.get("added_tokens") or ():
        text = token["content"]
        if token["special"] or token["id"] in special_ids or (text[:1], text[-1:]) == ("<", ">"):
            names[text] = f"{NO_TEXT}{token['id']}"
            token |= {"content": names[text], "special": True}
    model = data["model"]
    if isinstance(vocab := model.get("vocab"), dict):
        model["vocab"] = {names.get(text, text): i for text, i in vocab.items()}
    elif vocab is not None:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return json.dumps(data, ensure_ascii=False)
