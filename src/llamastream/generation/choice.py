"""One choice of an answer: its token ids become text, piece by piece.

The invariant: the pieces, concatenated, are the whole visible text, whatever steps the tokens came
in. Nothing after a matched stop string is shown or counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from llamastream.text import (
    CallReader,
    IncrementalDetokenizer,
    ReasoningSplitter,
    StopMatcher,
    Tokenizer,
)
from llamastream.tools import CallRules, call_id
from llamastream.types import (
    ChatRequest,
    FinishReason,
    GenerationRequest,
    Message,
    OtherPart,
    Reasoning,
    ReasoningStart,
    Token,
    TokenLogprob,
)

NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class TextRules:
    """How the ids of an answer become visible text: all of a request that matters for it."""

    stop: tuple[str, ...]
    stop_token_ids: frozenset[int]  # the model's own included
    include_stop: bool
    skip_special_tokens: bool
    continues: bool  # the prompt's text, rather than being a text of its own
    reasoning: ReasoningStart | None = None  # None: it has none, whatever it looks like
    calls: CallRules | None = None
    min_tokens: int = 0  # these complete no stop string, as in vLLM; 0 in older databases

    @classmethod
    def of(
        cls,
        request: ChatRequest,
        prompt_ids: Sequence[int],
        tokenizer: Tokenizer,
        reasoning: ReasoningStart | None = None,
        calls: CallRules | None = None,
    ) -> Self:
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
            reasoning=reasoning,
            calls=calls,
            min_tokens=request.sampling.min_tokens,
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        # Unknown of answers that were stored without any.
        start, calls = fields.get("reasoning"), fields.get("calls")
        typed = {
            "stop": tuple(fields["stop"]),
            "stop_token_ids": frozenset(fields["stop_token_ids"]),
            "reasoning": None if start is None else ReasoningStart(start),
            "calls": None if calls is None else CallRules.from_json(calls),
        }
        return cls(**fields | typed)


class Choice:
    """Fed with the events of one engine request."""

    def __init__(
        self,
        index: int,
        tokenizer: Tokenizer,
        rules: TextRules,
        request: GenerationRequest,
        response_id: str = "",
    ) -> None:
        """`request` is what the engine is asked for. Raises InvalidRequest for an empty stop
        string."""
        self.index = index
        self._response_id = response_id  # of which the ids of calls are made
        self.request = request
        self.num_output_tokens = 0
        self.num_reasoning_tokens = 0
        self.parts: tuple[OtherPart, ...] = ()  # of the last token: what it shows beside text
        self.prompt: list[TokenLogprob] = []  # of its tokens from the second on, where asked for
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._rules = rules
        self._hidden_ids = frozenset() if rules.include_stop else rules.stop_token_ids
        self._detokenizer = IncrementalDetokenizer(
            tokenizer,
            skip_special_tokens=rules.skip_special_tokens,
            continues=rules.continues,
        )
        self._matcher = StopMatcher(rules.stop, include=rules.include_stop) if rules.stop else None
        self._splitter = None if rules.reasoning is None else ReasoningSplitter(rules.reasoning)
        make_id = partial(call_id, response_id, index)
        self._calls = None if rules.calls is None else CallReader(rules.calls, make_id)

    def again(self, request: GenerationRequest) -> "Choice":
        """The same choice before its first token."""
        return Choice(self.index, self._tokenizer, self._rules, request, self._response_id)

    @property
    def stop_string(self) -> str | None:
        """The one that ended it, if one did."""
        return None if self._matcher is None else self._matcher.matched

    def add(self, token_id: int) -> str:
        """The text of one more token. A stop string that it completes sets the finish reason."""
        self.num_output_tokens += 1
        is_hidden = token_id in self._hidden_ids
        if self._splitter is None and is_hidden:
            self.parts = ()
            return ""
        text = "" if is_hidden else self._detokenizer.add(token_id)
        if self._splitter is not None:
            if self._splitter.is_over:  # what follows is not looked at again
                self._splitter, self.parts = None, ()
            else:
                token_id = NO_TOKEN if self._splitter.is_reasoning else token_id
                text = self._split(text)
        if self._calls is not None:
            return self._without_calls(self._calls, text, token_id)
        if self._matcher is None or self.num_output_tokens <= self._rules.min_tokens:
            return text
        return self._match(text)

    def add_prompt(self, tokens: Iterable[Token]) -> None:
        self.prompt += (entry for token in tokens if (entry := self.logprob(token)) is not None)

    def prompt_text(self) -> str:
        """The prompt's, control tokens and all."""
        return self._tokenizer.decode(list(self.request.prompt_ids), skip_special_tokens=False)

    def first_prompt_token(self) -> TokenLogprob:
        """What nothing precedes has no probability: 0 stands for it."""
        token_id = self.request.prompt_ids[0]
        return TokenLogprob(token_id, self._tokenizer.token_bytes(token_id), 0.0)

    def finish(self, reason: FinishReason) -> str:
        """The text that was held back, when no more tokens come."""
        text = self._detokenizer.finish()
        if self._splitter is not None:
            (thought, text), held = self._splitter.add(text), self._splitter.finish()
            self._think(thought + held[0])
            text += held[1]
        if self._calls is not None:
            text = self._without_calls(self._calls, text, NO_TOKEN)
            text += self._match(self._calls.finish())
        else:
            text = self._match(text)
        if self._matcher is not None and self.finish_reason is None:
            text += self._matcher.finish()
        # Text flushed at the end may still complete a stop string.
        self.finish_reason = self.finish_reason or reason
        return text

    def logprob(self, token: Token) -> TokenLogprob | None:
        """Its log-probabilities with the bytes of the tokens, if it has any."""
        if token.logprob is None:
            return None
        bytes_of = self._tokenizer.token_bytes
        top = tuple(TokenLogprob(i, bytes_of(i), value) for i, value in token.top_logprobs)
        return TokenLogprob(token.token_id, bytes_of(token.token_id), token.logprob, top)

    def shown_bytes(self, token_id: int) -> bytes:
        """What a token that was drawn adds to the text; nothing for one that is hidden."""
        if token_id in self._hidden_ids:
            return b""
        return self._tokenizer.visible_bytes(token_id, self._rules.skip_special_tokens)

    def _split(self, text: str) -> str:
        """What of a token's text follows the reasoning."""
        splitter = self._splitter
        assert splitter is not None
        was_reasoning = splitter.is_reasoning
        thought, text = splitter.add(text)
        self._think(thought)
        if was_reasoning or splitter.is_reasoning:
            self.num_reasoning_tokens = self.num_output_tokens
        return text

    def _without_calls(self, calls: CallReader, text: str, token_id: int) -> str:
        """What of a token's text is none of a call: there alone stop strings end the answer."""
        thoughts = self.parts if self._splitter is not None else ()
        text = self._match(calls.add(text, token_id))
        made = calls.take()
        if self.finish_reason is not None:
            made = ()
        elif made and self._matcher is not None:
            text += self._matcher.finish()
            self._matcher = None
        self.parts = (*thoughts, *made)
        return text

    def _think(self, thought: str) -> None:
        self.parts = (Reasoning(thought),) if thought else ()

    def _match(self, text: str) -> str:
        if self._matcher is None or not text:
            return text
        visible, matched = self._matcher.add(text)
        if matched:
            self.finish_reason = FinishReason.STOP
        return visible
