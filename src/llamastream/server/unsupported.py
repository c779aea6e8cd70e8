"""Options of OpenAI's API that we do not implement, and the values that ask for nothing.

An option is accepted only with a value that means the same as leaving it out; anything else is
refused with its name. An option that is in no list at all is unknown.
"""

import difflib
from collections.abc import Iterable
from typing import Any

from llamastream.errors import InvalidRequest

CHAT: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),  # says nothing without tools
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
COMPLETIONS: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
RESPONSES: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background_options": (),
    "context_management": ([],),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning": ({}, {"effort": None}, {"effort": "none"}, {"effort": None, "summary": None}),
    "service_tier": ("auto", "default"),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}


def without_defaults(
    body: dict[str, Any], unsupported: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """`body` less the options that ask for nothing. Raises InvalidRequest for those that do."""
    found = unsupported.keys() & body.keys()
    for name in sorted(found):
        value = body[name]
        if value is not None and not any(_same(value, default) for default in unsupported[name]):
            raise InvalidRequest(f"{name} is not supported. Leave it out.", param=name)
    return {name: value for name, value in body.items() if name not in found}


def unknown_option(name: str, known: Iterable[str]) -> InvalidRequest:
    """The error for an option that is neither ours nor OpenAI's."""
    near = difflib.get_close_matches(name[:50], list(known), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InvalidRequest(f"Unknown option: {name[:100]!r}.{hint}", param=name[:100])


def _same(value: object, default: object) -> bool:
    return type(value) is type(default) and value == default  # 1 is not True here
