"""Text to token ids and back: tokenizer, prompts, streaming detokenizer, stop strings, context.

Knows no tensors, no HTTP and no storage. The invariants: control tokens of a prompt come only
from its template, never from what a user typed; and the deltas of a stream, joined, are the decoded
text.
"""

from llamastream.text.bounds import DoesNotFit, check_room
from llamastream.text.calls import CallReader
from llamastream.text.context import (
    FittedPrompt,
    check_prompt,
    fit_context,
    prompt_room,
    too_long,
)
from llamastream.text.detokenizer import IncrementalDetokenizer
from llamastream.text.reasoning import ReasoningSplitter, reasoning_start
from llamastream.text.stops import StopMatcher
from llamastream.text.templates import PromptBuilder
from llamastream.text.tokenizer import REASONING_TAGS, Tokenizer

__all__ = [
    "CallReader",
    "REASONING_TAGS",
    "DoesNotFit",
    "FittedPrompt",
    "IncrementalDetokenizer",
    "PromptBuilder",
    "ReasoningSplitter",
    "StopMatcher",
    "Tokenizer",
    "check_prompt",
    "check_room",
    "fit_context",
    "prompt_room",
    "reasoning_start",
    "too_long",
]
