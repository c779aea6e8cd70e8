"""From a conversation to the token ids of its prompt: which format a model gets.

The formats themselves are next door: `llama2`, and `jinja` for all that is a template.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text.jinja import JinjaFormat
from llamastream.text.llama2 import TAGS, Llama2Format
from llamastream.text.tokenizer import Tokenizer
from llamastream.types import Message

# Sources: github.com/meta-llama/llama3, llama/tokenizer.py, ChatFormat; and OpenAI's ChatML.
TEMPLATES = {
    "llama3": (
        "<|begin_of_text|>{% for message in messages %}"
        "<|start_header_id|>{{ message.role }}<|end_header_id|>"
        "{{ '\n\n' + message.content | trim }}<|eot_id|>{% endfor %}"
        "<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}"
    ),
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message.role + '\n' + message.content }}"
        "<|im_end|>{{ '\n' }}{% endfor %}<|im_start|>{{ 'assistant\n' }}"
    ),
}
_CONTROL_TEXT = re.compile(r"<\|\w+\|>")
_PROBES = (
    (Message("user", " a "),),
    (Message("system", " s "), Message("user", " a ")),
    (Message("user", "a"), Message("assistant", " b "), Message("user", "c ")),
)


class PromptFormat(Protocol):
    """One way to write a conversation down. `messages` holds at least one."""

    def build(self, messages: Sequence[Message]) -> list[int]: ...

    def render(self, messages: Sequence[Message]) -> str: ...


class PromptBuilder:
    """Builds the prompts of one model. Thread-safe."""

    def __init__(self, prompt_format: PromptFormat) -> None:
        self._format = prompt_format

    @classmethod
    def from_config(
        cls,
        tokenizer: Tokenizer,
        chat_template_option: str | None = None,
        *,
        allow_prompt_tags: bool = False,
    ) -> Self:
        """Choose the format: the operator's option, else the checkpoint's own template.

        Raises ModelError if the format does not fit the tokenizer or the template does not compile.
        """
        option = chat_template_option
        if option == "llama2":
            return cls(Llama2Format(tokenizer, allow_prompt_tags=allow_prompt_tags))
        source = tokenizer.chat_template if option is None else _template(option, tokenizer)
        if source is None:
            return cls(_NoFormat())
        jinja = JinjaFormat(tokenizer, source, allow_prompt_tags=allow_prompt_tags)
        if option is None and _is_llama2(jinja, source, tokenizer):
            return cls(Llama2Format(tokenizer, allow_prompt_tags=allow_prompt_tags))
        return cls(jinja)

    def build(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt, up to where the answer begins.

        Raises InvalidRequest with the index of the message at fault.
        """
        _check(messages)
        return self._format.build(messages)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt as text, for people: contents cannot be told from control tokens in it."""
        _check(messages)
        return self._format.render(messages)


class _NoFormat:
    """What a model without a chat template gets: it completes text, and refuses to chat."""

    def build(self, messages: Sequence[Message]) -> list[int]:
        raise InvalidRequest(
            "This model has no chat template, so it cannot chat; /v1/completions works. To chat, "
            "start the server with --chat-template llama2|llama3|chatml|FILE.",
            param="messages",
        )

    def render(self, messages: Sequence[Message]) -> str:
        raise AssertionError(self.build(messages))


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidRequest("messages must hold at least 1 message. Given: 0.", param="messages")
    for index, message in enumerate(messages):
        for field, text in (("content", message.content), ("name", message.name or "")):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"messages[{index}].{field} must be valid Unicode: character {error.start} is "
                    "a lone surrogate.",
                    param=f"messages[{index}].{field}",
                ) from error


def _template(option: str, tokenizer: Tokenizer) -> str:
    """One of ours, or the file `option`."""
    source = TEMPLATES.get(option)
    if source is None:
        return _read_template(option)
    for text in _CONTROL_TEXT.findall(source):
        if text not in tokenizer.special_texts:
            raise ModelError(
                f"--chat-template {option} needs a tokenizer with the control token {text}."
            )
    return source


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            "--chat-template must be llama2, llama3, chatml or a readable file with a Jinja "
            f"template. Given: {path} ({error})."
        ) from error


def _is_llama2(jinja: JinjaFormat, source: str, tokenizer: Tokenizer) -> bool:
    """Whether a template writes what Meta's reference writes.

    Then the reference itself takes its place: it checks roles, and its tags are refused in
    contents, while the ids of what both accept are the same.
    """
    if not all(tag in source for tag in TAGS) or tokenizer.bos_token_id is None:
        return False
    reference = Llama2Format(tokenizer, allow_prompt_tags=True)
    try:
        return all(jinja.render(probe) == reference.render(probe) for probe in _PROBES)
    except InvalidRequest:
        return False
