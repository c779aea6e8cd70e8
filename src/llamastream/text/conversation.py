"""A conversation as a chat template is given it, with every text in it that its authors wrote.

Knows no template. The invariant: `with_texts(texts())` is the same conversation, so whoever renders
it with other texts in their places learns where they went.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple, Self

from llamastream.errors import InvalidRequest, quoted
from llamastream.tools import Tool
from llamastream.types import (
    Message,
    OtherPart,
    PromptOptions,
    Reasoning,
    Thinking,
    ToolCall,
    ToolResult,
)

MAX_DEPTH = 128  # of JSON in a conversation
# What a template is given besides, so that nobody can say it twice.
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_MARKS = range(0x10FFFD, 0x10F000, -1)  # private use: no text that means anything holds them


class Conversation(NamedTuple):
    messages: Sequence[Message]
    options: PromptOptions

    def texts(self) -> list[str]:
        """Contents, names, all strings of tools, calls and results, and those among the template's
        variables, in a fixed order."""
        written = [text for m in self.messages for text in _of_message(m)]
        written += (text for tool in self.options.tools for text in _of_tool(tool))
        return [*written, *_strings(self.options.variables)]

    def with_texts(self, texts: Sequence[str]) -> Self:
        """The same with others in the places of `texts()`."""
        others = iter(texts)
        messages = [_message_with(m, others) for m in self.messages]
        tools = tuple(_tool_with(tool, others) for tool in self.options.tools)
        variables = _replaced(self.options.variables, others)
        options = replace(self.options, variables=variables, tools=tools)
        return self._replace(messages=messages, options=options)

    def marked(self) -> tuple[Self, str]:
        """The same with a mark behind the last message, and that mark, which is nowhere else."""
        joined = "".join(self.texts())
        mark = next(chr(code) for code in _MARKS if chr(code) not in joined)
        *before, last = self.messages
        last = replace(last, content=(*last.parts, mark))
        return self._replace(messages=[*before, last]), mark


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


def check_tools(tools: Sequence[Tool], tags: Sequence[str]) -> None:
    """Raises InvalidRequest for one that holds one of `tags`, or what is no Unicode."""
    for tool in tools:
        for text in _of_tool(tool):
            found = next((tag for tag in tags if tag in text), None)
            if found is not None:
                raise InvalidRequest(
                    f"{tool.param} must not hold {found}, a tag of the model's prompts.",
                    param=tool.param,
                )
            if not is_unicode(text):
                raise InvalidRequest(
                    f"{tool.param} must be valid Unicode: it holds a lone surrogate.",
                    param=tool.param,
                )


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def strings_of(message: Message) -> Iterator[tuple[str, str]]:
    """All that its author wrote, with the name of the field that it is in."""
    fields = {ToolCall: "tool_calls", Reasoning: "reasoning_content"}
    yield "content", message.text
    if message.name is not None:
        yield "name", message.name
    for part in message.parts:
        if not isinstance(part, str):
            for text in _of_part(part):
                yield fields.get(type(part), "content"), text


def _of_message(message: Message) -> Iterator[str]:
    yield message.text
    if message.name is not None:
        yield message.name
    for part in message.parts:
        if not isinstance(part, str):
            yield from _of_part(part)


def _of_part(part: OtherPart) -> Iterator[str]:
    match part:
        case ToolCall():
            yield part.id
            yield part.name
            yield from _of_json(part.arguments)
        case ToolResult():
            yield part.call_id
            yield part.text
        case _:
            yield part.text


def _message_with(message: Message, others: Iterator[str]) -> Message:
    text = next(others)
    name = None if message.name is None else next(others)
    parts = [_part_with(part, others) for part in message.parts if not isinstance(part, str)]
    return Message(message.role, (text, *parts) if parts else text, name)


def _part_with(part: OtherPart, others: Iterator[str]) -> OtherPart:
    match part:
        case ToolCall():
            return replace(
                part,
                id=next(others),
                name=next(others),
                arguments=_json_with(part.arguments, others),
            )
        case ToolResult():
            return replace(part, call_id=next(others), text=next(others))
        case _:
            return replace(part, text=next(others))


def _of_tool(tool: Tool) -> Iterator[str]:
    yield tool.name
    if tool.description is not None:
        yield tool.description
    yield from _of_json(tool.parameters)


def _tool_with(tool: Tool, others: Iterator[str]) -> Tool:
    return replace(
        tool,
        name=next(others),
        description=None if tool.description is None else next(others),
        parameters=_json_with(tool.parameters, others),
    )


def _of_json(text: str) -> Iterator[str]:
    """Strings and keys of a JSON text; of any other, itself."""
    yield from _strings(parsed(text), with_keys=True)


def _json_with(text: str, others: Iterator[str]) -> str:
    value = parsed(text)
    if value is text:
        return next(others)
    return json.dumps(_replaced(value, others, with_keys=True), ensure_ascii=False)


def parsed(text: str) -> Any:
    """JSON; what is none, or is nested too deeply to be gone through, is the text itself."""
    depth = most = 0
    for mark in re.findall(r"[\[\]{}]", text):
        depth += 1 if mark in "[{" else -1
        most = max(most, depth)
    try:
        return text if most > MAX_DEPTH else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _names(value: Any) -> Iterator[str]:
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping):
        yield from value
    if isinstance(value, Mapping | list):
        for part in parts:
            yield from _names(part)


def _strings(value: Any, *, with_keys: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if with_keys:
                yield name
            yield from _strings(part, with_keys=with_keys)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, with_keys=with_keys)


def _replaced(value: Any, others: Iterator[str], *, with_keys: bool = False) -> Any:
    if isinstance(value, str):
        return next(others)
    if isinstance(value, Mapping):
        return {
            next(others) if with_keys else name: _replaced(part, others, with_keys=with_keys)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [_replaced(part, others, with_keys=with_keys) for part in value]
    return value
