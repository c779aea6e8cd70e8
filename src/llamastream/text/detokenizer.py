"""Text of a token stream, piece by piece, in constant time per token.

The invariant: the pieces and what `finish` gives, joined, are `Tokenizer.decode` of the ids; for
an answer that continues its prompt, both joined are `Tokenizer.decode` of all the ids. Only
whole characters come out; bytes that can no longer become one come out as U+FFFD at once.
"""

import codecs

from llamastream.text.tokenizer import Tokenizer

_new_decoder = codecs.getincrementaldecoder("utf-8")


class IncrementalDetokenizer:
    """Detokenizes one answer, a text of its own unless it `continues` the text before it.

    It matters to SentencePiece's leading space: the mark of a new text, which is taken off, or the
    space between the prompt's last word and the next.
    """

    __slots__ = ("_decoder", "_first", "_holding", "_skip", "_texts", "_tokenizer")

    def __init__(
        self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, continues: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._texts = tokenizer.whole_texts(skip_special_tokens)
        self._decoder = _new_decoder(errors="replace")
        # True while the first text is still to come.
        self._first = tokenizer.rules.strip_leading_space and not continues
        self._holding = self._first  # or part of a character is held back

    def add(self, token_id: int) -> str:
        """The text that this token completes, possibly none."""
        if not self._holding:
            text = self._texts.get(token_id)
            if text is not None:
                return text
        return self._add_bytes(token_id)

    def finish(self) -> str:
        """Flush the end: an incomplete character comes out as one U+FFFD."""
        return self._decoder.decode(b"", final=True)

    def _add_bytes(self, token_id: int) -> str:
        was_holding = self._holding
        raw = self._tokenizer.visible_bytes(token_id, self._skip)
        if self._first and raw:
            self._first = False
            if self._tokenizer.has_prefix_space(token_id):
                raw = raw[1:]
        text = self._decoder.decode(raw)
        self._holding = self._first or bool(self._decoder.getstate()[0])
        if not was_holding and not self._holding:
            self._texts[token_id] = text  # depends on nothing before or after it
        return text
