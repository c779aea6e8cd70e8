"""One choice of a stream: its token ids become text, deltas and counts.

The invariant: what it has handed out, concatenated, is the whole visible text, whatever steps the
tokens came in. Nothing after a matched stop string is shown or counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from llamastream.text import IncrementalDetokenizer, StopMatcher, Tokenizer
from llamastream.types import ChatRequest, Delta, FinishReason, Message, Token, TokenLogprob


@dataclass(frozen=True, slots=True)
class TextRules:
    """How the ids of an answer become visible text: all of a request that matters for it."""

    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]  # the model's own included
    include_stop: bool
    skip_special_tokens: bool
    continues: bool  # the prompt's text, rather than being a text of its own

    @classmethod
    def of(cls, request: ChatRequest, prompt_ids: Sequence[int], tokenizer: Tokenizer) -> Self:
        stop_ids = request.sampling.stop_token_ids
        if not request.ignore_eos:
            stop_ids |= frozenset(tokenizer.eos_token_ids)
        is_chat = isinstance(request.prompt, tuple) and isinstance(request.prompt[0], Message)
        return cls(
            stop=request.stop,
            stop_token_ids=stop_ids,
            include_stop=request.include_stop,
            skip_special_tokens=request.skip_special_tokens,
            continues=(request.prompt_options.continues or not is_chat)
            and prompt_ids[-1] not in tokenizer.special_ids,
        )


class Choice:
    """Fed by the service with the events of one engine request."""

    def __init__(
        self, index: int, tokenizer: Tokenizer, rules: TextRules, next_number: Callable[[], int]
    ) -> None:
        """`next_number` counts the deltas of the stream. Raises InvalidRequest for an empty stop
        string."""
        self.index = index
        self.num_output_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._next_number = next_number
        self._tokenizer = tokenizer
        self._hidden_ids = frozenset() if rules.include_stop else rules.stop_token_ids
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            skip_special_tokens=rules.skip_special_tokens,
            continues=rules.continues,
        )
        self._matcher = StopMatcher(rules.stop, include=rules.include_stop) if rules.stop else None

    def add(self, token: Token) -> Delta:
        """The delta of one more token. It carries the finish reason when a stop string matched."""
        self.num_output_tokens += 1
        text = ""
        if token.token_id not in self._hidden_ids:
            text = self._match(self._detokenizer.add(token.token_id))
        logprobs = () if token.logprob is None else (self._logprob(token, token.logprob),)
        return self._delta(text, (token.token_id,), logprobs)

    def finish(self, reason: FinishReason) -> Delta:
        """The last delta: text that was held back, and why it ended."""
        text = self._match(self._detokenizer.finish())
        if self._matcher is not None and self.finish_reason is None:
            text += self._matcher.finish()
        # Text flushed at the end may still complete a stop string.
        self.finish_reason = self.finish_reason or reason
        return self._delta(text, (), ())

    def _match(self, text: str) -> str:
        if self._matcher is None or not text:
            return text
        visible, matched = self._matcher.add(text)
        if matched:
            self.finish_reason = FinishReason.STOP
        return visible

    def _delta(
        self, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]
    ) -> Delta:
        return Delta(self.index, self._next_number(), text, token_ids, logprobs, self.finish_reason)

    def _logprob(self, token: Token, logprob: float) -> TokenLogprob:
        bytes_of = self._tokenizer.token_bytes
        top = tuple(TokenLogprob(i, bytes_of(i), value) for i, value in token.top_logprobs)
        return TokenLogprob(token.token_id, bytes_of(token.token_id), logprob, top)
