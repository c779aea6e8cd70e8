"""How tools, calls and results are said to a model: by its template, or in words of ours.

Which it is, and how the model writes calls, is found out by rendering a fixed conversation, before
anybody chats. The invariant: a conversation that is prepared holds what the template can write.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text.conversation import parsed
from llamastream.text.tokenizer import Tokenizer
from llamastream.tools import CallSyntax, Tool, ToolFormat
from llamastream.types import Message, Part, PromptOptions, Reasoning, ToolCall, ToolResult, text_of

_TOOL = Tool(
    "fetch_osprey",
    "Brings the dunlin.",
    '{"type":"object","properties":{"plover":{"type":"string"}},"required":["plover"]}',
)
_CALL = ToolCall("abcdefghi", "fetch_osprey", '{"plover": "wagtail"}')
_CONVERSATION = (
    Message("user", "kestrel"),
    Message("assistant", (_CALL,)),
    Message("tool", (ToolResult("abcdefghi", "siskin"),)),
)
_SHOWN = ("dunlin", "plover", "wagtail", "siskin")
_SYNTAXES = (
    (CallSyntax.MISTRAL, r"\[TOOL_CALLS\]"),
    (CallSyntax.HERMES, r'<tool_call>\s*\{[^}]*"fetch_osprey"'),
    (CallSyntax.PYTHONIC, r"\[fetch_osprey\("),
    (CallSyntax.LLAMA, r'\{"name": "fetch_osprey", "parameters": '),
)
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")  # the only ones that Mistral's templates take

Render = Callable[[Sequence[Message], tuple[Tool, ...]], str]
"""A conversation and its tools -> the prompt. Raises InvalidRequest."""


def find_format(render: Render | None, tokenizer: Tokenizer, option: str | None) -> ToolFormat:
    """How a model writes calls: as the operator says, else as its template does.

    Raises ModelError for an option that the template cannot say tools in.
    """
    if option == CallSyntax.GENERIC:
        return _with_tokens(CallSyntax.GENERIC, tokenizer)
    text = ""
    if render is not None:
        try:
            text = render(_CONVERSATION, (_TOOL,))
        except InvalidRequest:
            text = ""
    shows_tools, has_arguments = all(word in text for word in _SHOWN), "[ARGS]" in text
    if option is not None:
        if not shows_tools:
            raise ModelError(
                f"--tool-format {option} needs a chat template that writes tools, calls and "
                "results. This one does not: leave it out, or choose generic."
            )
        return _with_tokens(CallSyntax(option), tokenizer, has_arguments=has_arguments)
    if shows_tools:
        for syntax, pattern in _SYNTAXES:
            if re.search(pattern, text):
                return _with_tokens(syntax, tokenizer, has_arguments=has_arguments)
    return _with_tokens(CallSyntax.GENERIC, tokenizer)


def _with_tokens(
    syntax: CallSyntax, tokenizer: Tokenizer, *, has_arguments: bool = False
) -> ToolFormat:
    def control(*texts: str) -> int | None:
        ids = (tokenizer.token_id(text) for text in texts)
        return next((i for i in ids if i in tokenizer.special_ids), None)

    match syntax:
        case CallSyntax.LLAMA:
            begin = control("<|python_tag|>", "<|python_start|>")
            return ToolFormat(syntax, begin, control("<|python_end|>"))
        case CallSyntax.PYTHONIC:
            return ToolFormat(syntax, control("<|python_start|>"), control("<|python_end|>"))
        case CallSyntax.MISTRAL:
            begin = control("[TOOL_CALLS]")
            arguments = control("[ARGS]") if has_arguments and begin is not None else None
            return ToolFormat(syntax, begin, None, arguments)
    begin, end = control("<tool_call>"), control("</tool_call>")
    return ToolFormat(syntax) if None in (begin, end) else ToolFormat(syntax, begin, end)


def prepared(
    messages: Sequence[Message],
    options: PromptOptions,
    format: ToolFormat,
    *,
    takes_system: bool,
) -> tuple[Sequence[Message], PromptOptions]:
    """The same in what the model's template can write."""
    if format.syntax is CallSyntax.GENERIC:
        spoken = list(_as_text(messages))
        if options.tools:
            spoken = _explained(spoken, options.tools, takes_system=takes_system)
        return spoken, replace(options, tools=())
    if not any(isinstance(part, ToolCall | ToolResult) for m in messages for part in m.parts):
        return messages, options
    if format.syntax is CallSyntax.LLAMA:
        messages = list(_one_by_one(messages))
    if format.syntax is CallSyntax.MISTRAL:
        messages = [replace(m, content=tuple(map(_with_short_id, m.parts))) for m in messages]
    return messages, options


def _as_text(messages: Sequence[Message]) -> Iterator[Message]:
    """Calls as the model is told to write them, results as what the user says."""
    results: list[str] = []
    for message in messages:
        if message.role == "tool":
            results += (_result(part) for part in message.parts)
            continue
        if results:
            said = "\n".join(results)
            results = []
            if message.role == "user":
                yield Message("user", f"{said}\n{message.text}", message.name)
                continue
            yield Message("user", said)
        calls = [_call(part) for part in message.parts if isinstance(part, ToolCall)]
        if calls:
            thoughts = [part for part in message.parts if isinstance(part, Reasoning)]
            said = "\n".join([message.text, *calls] if message.text else calls)
            message = replace(message, content=(*thoughts, said))
        yield message
    if results:
        yield Message("user", "\n".join(results))


def _call(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    if call.kind == "custom":
        return f'<tool_call>\n{{"name": {name}}}\n{call.arguments}\n</tool_call>'
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments}}}\n</tool_call>'


def _result(part: Part) -> str:
    text = part.text if isinstance(part, ToolResult) else text_of([part])
    return f"<tool_response>\n{text}\n</tool_response>"


def _explained(
    messages: list[Message], tools: tuple[Tool, ...], *, takes_system: bool
) -> list[Message]:
    """With an explanation behind the system message, or before what the user says first."""
    explanation = _explanation(tools)
    first, rest = messages[0], messages[1:]
    if takes_system and first.role != "system":
        return [Message("system", explanation), *messages]
    if first.role == "system":
        return [replace(first, content=f"{first.text}\n\n{explanation}"), *rest]
    if first.role == "user":
        return [replace(first, content=f"{explanation}\n\n{first.text}"), *rest]
    return [Message("user", explanation), *messages]


def _explanation(tools: tuple[Tool, ...]) -> str:
    listed = "\n".join(json.dumps(function_of(tool), ensure_ascii=False) for tool in tools)
    return (
        f"You can call functions. These are there, with the JSON schemas of their parameters:\n"
        f"<tools>\n{listed}\n</tools>\n"
        "To call one, write its name and its arguments as JSON between tags, and nothing behind "
        'them:\n<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n</tool_call>\n'
        "The results come between <tool_response> and </tool_response>. If none of the functions "
        "helps, answer in words."
    )


def definition(tool: Tool) -> dict[str, object]:
    """As templates take it."""
    return {"type": "function", "function": function_of(tool)}


def function_of(tool: Tool) -> dict[str, object]:
    description = tool.description or ""
    if tool.input_syntax is not None:
        how = (
            f'It takes a text. To call it, write {{"name": "{tool.name}"}}, a line break and that '
            "text, and nothing behind it."
        )
        description = f"{description}\n{how}".strip()
    parameters = {} if tool.input_syntax else parsed(tool.parameters)
    return {"name": tool.name, "description": description, "parameters": parameters}


def template_messages(messages: Sequence[Message], *, as_parts: bool) -> list[dict[str, object]]:
    """As templates take them."""
    calls = (part for message in messages for part in message.parts if isinstance(part, ToolCall))
    names = {call.id: call.name for call in calls}
    return [_template_message(message, names, as_parts=as_parts) for message in messages]


def _template_message(
    message: Message, names: dict[str, str], *, as_parts: bool
) -> dict[str, object]:
    """names: of the functions that were called, by the ids of the calls."""
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    calls = [_template_call(part) for part in message.parts if isinstance(part, ToolCall)]
    text = message.text + "".join(result.text for result in results)
    ids = [result.call_id for result in results[:1]]
    name = next((names[id] for id in ids if id in names), message.name)
    return {
        "role": message.role,
        "content": [{"type": "text", "text": text}] if as_parts else text,
        **({} if name is None else {"name": name}),
        **({"reasoning_content": message.reasoning} if message.reasoning else {}),
        **({"tool_call_id": ids[0]} if ids else {}),
        **({"tool_calls": calls} if calls else {}),
    }


def _template_call(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": _arguments_of(call)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments_of(call: ToolCall) -> object:
    """Parsed, if they can be."""
    if call.kind == "custom":
        return {"input": call.arguments}
    return parsed(call.arguments or "{}")


def _one_by_one(messages: Sequence[Message]) -> Iterator[Message]:
    """Each call in a message of its own, with its result behind it, where several were made."""
    waiting: dict[str, Message] = {}  # calls behind the first, in order
    for message in messages:
        calls = [part for part in message.parts if isinstance(part, ToolCall)]
        if message.role == "tool":
            for part in message.parts:
                if isinstance(part, ToolResult) and part.call_id in waiting:
                    yield waiting.pop(part.call_id)
            yield message
            continue
        yield from waiting.values()
        waiting = {}
        if len(calls) > 1:
            waiting = {call.id: Message("assistant", (call,)) for call in calls}
            if message.text:
                yield Message("assistant", message.text)
        else:
            yield message
    yield from waiting.values()


def _with_short_id(part: Part) -> Part:
    match part:
        case ToolCall():
            return replace(part, id=_short_id(part.id))
        case ToolResult():
            return replace(part, call_id=_short_id(part.call_id))
        case _:
            return part


def _short_id(id: str) -> str:
    return id if _SHORT_ID.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]
