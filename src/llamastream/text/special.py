"""Finding control tokens in text, with the rules of Hugging Face's `tokenizers`.

The matcher works on a masked copy of the text: what a user typed can be masked so that it matches
nothing, while the text that is kept stays as it was.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

Segment = str | int
"""A piece of a prompt: plain text, or the id of a control token."""


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A control token: its id, its text, and which white space around it it swallows."""

    token_id: int
    text: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class SpecialTokens:
    """The control tokens of one tokenizer. Immutable."""

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        self._by_text = {token.text: token for token in tokens if token.text}
        # Leftmost and, among those that start together, longest: as the library's automaton.
        longest_first = sorted(self._by_text, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.texts = frozenset(self._by_text)

    def split(self, text: str, masked: str | None = None) -> list[Segment]:
        """Cut `text` at its control tokens.

        `masked` has the length of `text` and takes its place where tokens are looked for.
        """
        segments: list[Segment] = []
        done = 0
        for match in self._pattern.finditer(text if masked is None else masked):
            token = self._by_text[match[0]]
            start, stop = match.span()
            if token.single_word and _touches_word(text, start, stop):
                continue
            if token.lstrip:
                start = max(done, len(text[:start].rstrip()))
            if token.rstrip:
                stop = len(text) - len(text[stop:].lstrip())
            if done < start:
                segments.append(text[done:start])
            segments.append(token.token_id)
            done = stop
        if done < len(text):
            segments.append(text[done:])
        return segments


def _touches_word(text: str, start: int, stop: int) -> bool:
    def is_word(char: str) -> bool:
        return re.fullmatch(r"\w", char) is not None

    return is_word(text[start - 1 : start]) or is_word(text[stop : stop + 1])
