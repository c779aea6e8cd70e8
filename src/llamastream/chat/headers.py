"""Prompts whose turns stand between control tokens: Llama 3's and ChatML.

Sources: github.com/meta-llama/llama3, llama/tokenizer.py, ChatFormat; and OpenAI's ChatML. The text
between two control tokens is encoded in one piece, as it is when the whole string is encoded.
"""

from collections.abc import Callable, Iterator, Sequence

from llamastream.chat.special import Segment
from llamastream.chat.tokenizer import Tokenizer
from llamastream.errors import ModelError
from llamastream.messages import Message

Layout = Callable[[Sequence[Message]], Iterator[str]]
"""Alternates plain text and control tokens: text, token, text, token, ..."""


class HeaderFormat:
    def __init__(self, tokenizer: Tokenizer, layout: Layout, *, name: str) -> None:
        """Raises ModelError if the tokenizer lacks one of the format's control tokens."""
        self._tokenizer = tokenizer
        self._layout = layout
        controls = list(layout([Message("user", "")]))[1::2]
        missing = [text for text in controls if text not in tokenizer.special_texts]
        if missing:
            raise ModelError(
                f"--chat-template {name} needs a tokenizer with the control token {missing[0]}."
            )

    def build(self, messages: Sequence[Message]) -> list[int]:
        return self._tokenizer.with_bos(self._tokenizer.encode_segments(self._segments(messages)))

    def render(self, messages: Sequence[Message]) -> str:
        return "".join(self._layout(messages))

    def _segments(self, messages: Sequence[Message]) -> Iterator[Segment]:
        for position, text in enumerate(self._layout(messages)):
            if position % 2:
                token_id = self._tokenizer.special_id(text)
                assert token_id is not None  # checked when the format was chosen
                yield token_id
            elif text:
                yield text


def llama3_layout(messages: Sequence[Message]) -> Iterator[str]:
    yield from ("", "<|begin_of_text|>")
    for message in messages:
        yield from ("", "<|start_header_id|>", message.role, "<|end_header_id|>")
        yield from (f"\n\n{message.content.strip()}", "<|eot_id|>")
    yield from ("", "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n")


def chatml_layout(messages: Sequence[Message]) -> Iterator[str]:
    between = ""
    for message in messages:
        yield from (between, "<|im_start|>", f"{message.role}\n{message.content}", "<|im_end|>")
        between = "\n"
    yield from (between, "<|im_start|>", "assistant\n")
