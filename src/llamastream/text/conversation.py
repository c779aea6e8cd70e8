"""A conversation as a chat template is given it, with every text in it that its authors wrote.

Knows no template. The invariant: `with_texts(texts())` is the same conversation, so whoever renders
it with other texts in their places learns where they went.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple, Self

from llamastream.errors import InvalidRequest, quoted
from llamastream.types import Message, PromptOptions, Reasoning, Thinking

# What a template is given besides, so that nobody can say it twice.
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_MARKS = range(0x10FFFD, 0x10F000, -1)  # private use: no text that means anything holds them


class Conversation(NamedTuple):
    messages: Sequence[Message]
    options: PromptOptions

    def texts(self) -> list[str]:
        """Contents, names and the strings among the template's variables, in a fixed order."""
        written = [
            text
            for m in self.messages
            for text in (m.text, m.reasoning or None, m.name)
            if text is not None
        ]
        return [*written, *_strings(self.options.variables)]

    def with_texts(self, texts: Sequence[str]) -> Self:
        """The same with others in the places of `texts()`."""
        others = iter(texts)
        messages = [_with_texts(message, others) for message in self.messages]
        variables = _replaced(self.options.variables, others)
        return self._replace(messages=messages, options=replace(self.options, variables=variables))

    def marked(self) -> tuple[Self, str]:
        """The same with a mark behind the last message, and that mark, which is nowhere else."""
        joined = "".join(self.texts())
        mark = next(chr(code) for code in _MARKS if chr(code) not in joined)
        *before, last = self.messages
        last = replace(last, content=(*last.parts, mark))
        return self._replace(messages=[*before, last]), mark


def _with_texts(message: Message, others: Iterator[str]) -> Message:
    text = next(others)
    content = (text, Reasoning(next(others))) if message.reasoning else text
    return Message(message.role, content, None if message.name is None else next(others))


def check_known(
    variables: Mapping[str, Any], known: AbstractSet[str], *, may_disable: bool
) -> None:
    """Raises InvalidRequest for what asks for anything that the template does not know.

    may_disable: what switches reasoning off asks for nothing.
    """
    for name, value in variables.items():
        is_nothing = not value and (may_disable or name not in ("enable_thinking", "thinking"))
        if name not in known and not is_nothing:
            raise InvalidRequest(
                f"chat_template_kwargs must not hold {quoted(name)}: the model's chat template "
                "does not know it. Leave it out.",
                param="chat_template_kwargs",
            )


def check_thinking(thinking: Thinking | None, *, reasons: bool) -> None:
    """Raises InvalidRequest for what a template cannot do that has no option for it."""
    if thinking is not None and thinking.param and thinking.is_on != reasons:
        always = "always lets it reason" if reasons else "knows of no reasoning"
        raise InvalidRequest(
            f"{thinking.param} cannot be followed: this model's chat template {always}. "
            "Leave it out.",
            param=thinking.param,
        )


def check_variables(
    variables: Mapping[str, Any], reserved: frozenset[str], tags: Sequence[str]
) -> None:
    """Raises InvalidRequest unless they are a template's own and can forge nothing: by their names,
    or by holding one of `tags`, which are plain text to the tokenizer."""
    for name in _names(variables):
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                "chat_template_kwargs must have names of 1 to 64 letters, digits and underscores. "
                f"Given: {name[:80]!r}.",
                param="chat_template_kwargs",
            )
    for name in variables.keys() & (RESERVED | reserved):
        raise InvalidRequest(
            f"chat_template_kwargs must not hold {name!r}: the template is given its own.",
            param="chat_template_kwargs",
        )
    for tag in tags:
        if any(tag in text for text in _strings(variables)):
            raise InvalidRequest(
                f"chat_template_kwargs must not hold {tag}, a tag of the model's prompts.",
                param="chat_template_kwargs",
            )


def _names(value: Any) -> Iterator[str]:
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping):
        yield from value
    if isinstance(value, Mapping | list):
        for part in parts:
            yield from _names(part)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(part)


def _replaced(value: Any, others: Iterator[str]) -> Any:
    if isinstance(value, str):
        return next(others)
    if isinstance(value, Mapping):
        return {name: _replaced(part, others) for name, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, others) for part in value]
    return value
