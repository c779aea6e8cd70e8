"""One choice of a stream: its token ids become text, deltas and counts.

The invariant: what it has handed out, concatenated, is the whole visible text, whatever steps the
tokens came in. Nothing after a matched stop string is shown or counted.
"""

from llamastream.chat import IncrementalDetokenizer, StopMatcher, Tokenizer
from llamastream.messages import ChatRequest, Delta, FinishReason, Message, Token, TokenLogprob
from llamastream.service.stream import Stream


class Choice:
    """Fed by the service with the events of one engine request."""

    def __init__(
        self,
        stream: Stream,
        index: int,
        tokenizer: Tokenizer,
        request: ChatRequest,
        *,
        stop_token_ids: frozenset[int],
    ) -> None:
        """Raises InvalidRequest for an empty stop string."""
        self.index = index
        self.num_output_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._stream = stream
        self._tokenizer = tokenizer
        self._hidden_ids = frozenset() if request.include_stop else stop_token_ids
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            skip_special_tokens=request.skip_special_tokens,
            continues=_continues(request, stream.prompt_token_ids, tokenizer),
        )
        self._matcher = (
            StopMatcher(request.stop, include=request.include_stop) if request.stop else None
        )

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
        number = self._stream.next_sequence_number()
        return Delta(self.index, number, text, token_ids, logprobs, self.finish_reason)

    def _logprob(self, token: Token, logprob: float) -> TokenLogprob:
        bytes_of = self._tokenizer.token_bytes
        top = tuple(TokenLogprob(i, bytes_of(i), value) for i, value in token.top_logprobs)
        return TokenLogprob(token.token_id, bytes_of(token.token_id), logprob, top)


def _continues(request: ChatRequest, prompt_ids: tuple[int, ...], tokenizer: Tokenizer) -> bool:
    """Whether the answer goes on with the prompt's text, rather than being a text of its own."""
    is_chat = isinstance(request.prompt, tuple) and isinstance(request.prompt[0], Message)
    return not is_chat and prompt_ids[-1] not in tokenizer.special_ids
