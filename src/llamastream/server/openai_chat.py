"""Chat completions on the wire: `chat.completion` and `chat.completion.chunk`."""

from typing import Any

import orjson

from llamastream.messages import Delta, FinishReason, TokenLogprob, Usage
from llamastream.server.framing import (
    FINISH_REASONS,
    Answer,
    by_choice,
    event,
    finite,
    token_string,
    usage_fields,
)


class ChatFormat:
    """The role comes with a choice's first chunk, the finish reason in a last one of its own."""

    def __init__(self, answer: Answer, metadata: dict[str, str] | None = None) -> None:
        self._answer = answer
        self._metadata = metadata
        self._is_plain = not (answer.logprobs or answer.return_token_ids)
        self._started = [False] * answer.n
        self._before = [self._split(index)[0] for index in range(answer.n)]
        self._after = self._split(0)[1]
        self._extras = answer.extras()

    def frames(self, delta: Delta) -> list[bytes]:
        frames: list[bytes] = []
        if not self._started[delta.choice]:
            self._started[delta.choice] = True
            frames.append(self._first(delta.choice))
        if self._is_plain:
            if delta.text:
                text = orjson.dumps(delta.text)
                frames.append(self._before[delta.choice] + text + self._after)
        elif delta.text or delta.token_ids:
            frames.append(self._detailed(delta))
        if delta.finish_reason is not None:
            frames.append(self._chunk(delta.choice, {}, finish=delta.finish_reason))
        return frames

    def last_frames(self, usage: Usage) -> list[bytes]:
        return self._answer.last_frames("chat.completion.chunk", usage)

    def whole(self, deltas: list[Delta], usage: Usage) -> bytes:
        return orjson.dumps(self.completion(by_choice(deltas, self._answer.n), usage))

    def completion(self, deltas: list[Delta], usage: Usage) -> dict[str, Any]:
        """The `chat.completion` of one delta per choice."""
        choices = [self._whole_choice(delta) for delta in deltas]
        return {
            **self._answer.head("chat.completion"),
            "choices": choices,
            "usage": usage_fields(usage),
            **({} if self._metadata is None else {"metadata": self._metadata}),
            **self._extras,
        }

    def _whole_choice(self, delta: Delta) -> dict[str, Any]:
        assert delta.finish_reason is not None
        choice: dict[str, Any] = {
            "index": delta.choice,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": self._logprobs(delta),
            "finish_reason": FINISH_REASONS[delta.finish_reason],
        }
        if self._answer.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return choice

    def _first(self, index: int) -> bytes:
        delta = {"role": "assistant", "content": ""}
        return self._chunk(index, delta, extras=self._extras)

    def _detailed(self, delta: Delta) -> bytes:
        more: dict[str, Any] = {"logprobs": self._logprobs(delta)}
        if self._answer.return_token_ids:
            more["token_ids"] = delta.token_ids
        return self._chunk(delta.choice, {"content": delta.text}, more=more)

    def _chunk(
        self,
        index: int,
        content: dict[str, Any],
        *,
        finish: FinishReason | None = None,
        more: dict[str, Any] | None = None,
        extras: dict[str, Any] | None = None,
    ) -> bytes:
        reason = None if finish is None else FINISH_REASONS[finish]
        choice = {"index": index, "delta": content, "logprobs": None, "finish_reason": reason}
        choice |= more or {}
        chunk = {**self._answer.head("chat.completion.chunk"), "choices": [choice]}
        if self._answer.include_usage:
            chunk["usage"] = None
        return event(chunk | (extras or {}))

    def _split(self, index: int) -> tuple[bytes, bytes]:
        """A content chunk's bytes before and after its text."""
        before, _, after = self._chunk(index, {"content": 0}).partition(b'"content":0')
        return before + b'"content":', after

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._answer.logprobs:
            return None
        content = [
            {**_entry(entry), "top_logprobs": [_entry(top) for top in entry.top]}
            for entry in delta.logprobs
        ]
        return {"content": content, "refusal": None}


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token_string(entry),
        "logprob": finite(entry.logprob),
        "bytes": list(entry.token),
    }
