"""Text to token ids and back: tokenizer, prompts, streaming detokenizer, stop strings, context.

Knows no tensors, no HTTP and no storage. The invariants: control tokens of a prompt come only
from its template, never from what a user typed; and the deltas of a stream, joined, are the decoded
text.
"""

from llamastream.chat.context import FittedPrompt, check_prompt, fit_context
from llamastream.chat.detokenizer import IncrementalDetokenizer
from llamastream.chat.stops import StopMatcher
from llamastream.chat.templates import PromptBuilder
from llamastream.chat.tokenizer import Tokenizer

__all__ = [
    "FittedPrompt",
    "IncrementalDetokenizer",
    "PromptBuilder",
    "StopMatcher",
    "Tokenizer",
    "check_prompt",
    "fit_context",
]
