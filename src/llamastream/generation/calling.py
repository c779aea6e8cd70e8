"""From the tools of a request to what its answer must keep to, and how its calls are found.

Knows no wire format. Tools that are not in `prompt_options` are not offered, and nothing is done.
"""

import json
from dataclasses import asdict

from llamastream.errors import InvalidRequest
from llamastream.tools import CallRules, Tool, ToolFormat
from llamastream.types import ChatRequest, GrammarKind, GrammarSpec, Message, ToolCall, ToolResult


def call_rules(request: ChatRequest, format: ToolFormat) -> CallRules | None:
    """None of a request without tools."""
    tools = _callable(request)
    if not tools:
        return None
    return CallRules(
        format,
        tuple(tool.name for tool in tools),
        tuple(tool.name for tool in tools if tool.input_syntax is not None),
        has_format=request.grammar is not None,
    )


def spec_of(request: ChatRequest, rules: CallRules | None) -> GrammarSpec | None:
    """What its answers must keep to. Raises InvalidRequest for what the format cannot do."""
    if rules is None:
        return request.grammar
    format, choice, answer = rules.format, request.tool_choice, request.grammar
    if choice.parallel and not format.takes_several:
        raise InvalidRequest(
            "parallel_tool_calls must not be true: this model's format of calls "
            f"({format.syntax.value}) has one in an answer. Leave it out.",
            param="parallel_tool_calls",
        )
    if answer is not None and not (choice.is_required or format.can_tell_from_format):
        raise InvalidRequest(
            f"{answer.param} and tools exclude each other: in this model's format of calls "
            f"({format.syntax.value}) one cannot be told from the other. Send one of them.",
            param=answer.param,
        )
    text = json.dumps(
        {
            "rules": rules.to_json(),
            "tools": [asdict(tool) for tool in _callable(request)],
            "is_required": choice.is_required,
            "takes_several": format.takes_several and choice.parallel is not False,
            "answer": None if answer is None else asdict(answer),
        },
        ensure_ascii=False,
    )
    return GrammarSpec(GrammarKind.CALLS, text, param="tools")


def check_results(request: ChatRequest) -> None:
    """Raises InvalidRequest for a result of a call that nobody made."""
    made: set[str] = set()
    if isinstance(request.prompt, str):
        return
    for index, message in enumerate(request.prompt):
        if not isinstance(message, Message):
            return
        for part in message.parts:
            if isinstance(part, ToolCall):
                made.add(part.id)
            elif isinstance(part, ToolResult) and part.call_id not in made:
                raise InvalidRequest(
                    f"messages[{index}] is the result of call {part.call_id[:80]!r}, which no "
                    "message before it makes. Send the assistant's message with that call, too.",
                    param=f"messages[{index}].tool_call_id",
                )


def _callable(request: ChatRequest) -> tuple[Tool, ...]:
    names = request.tool_choice.names
    tools = request.prompt_options.tools
    return tools if names is None else tuple(tool for tool in tools if tool.name in names)
