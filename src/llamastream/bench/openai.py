"""OpenAI's completion APIs from the client's side: a request's body, and what a reply tells.

Knows no sockets. Everything is read after the fact, from a reply's bytes and their times.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from llamastream.bench.errors import ServerFailed
from llamastream.bench.exchange import Reply

Api = Literal["chat", "completions"]
PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
MAX_QUOTED_CHARS = 300  # of a server's error, in our message


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How every server is asked. `timeout_s` bounds one request, from sending to its end.

    `ignore_eos` stands for the extensions that make servers comparable: OpenAI itself refuses them;
    vLLM, llama.cpp's server and llamastream take them.
    """

    api: Api = "completions"
    ignore_eos: bool = True
    timeout_s: float = 600.0

    def body(self, model: str, prompt: str, max_tokens: int) -> bytes:
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
            body["repetition_penalty"] = 1.0  # whatever the model's own default is
        if self.api == "chat":
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        return orjson.dumps(body)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When a request's answer arrived. Times are time.perf_counter().

    `token_times_s` has one entry per chunk that carried text. `num_output_tokens` is the server's
    own count where it sent a usage, else the number of these chunks; `counted_by` says which.
    `end_s` is NaN while the answer is still coming.
    """

    token_times_s: tuple[float, ...]
    end_s: float
    num_prompt_tokens: int | None
    num_output_tokens: int
    counted_by: Literal["usage", "chunks"]


def read_timeline(reply: Reply, *, partial: bool = False) -> Timeline:
    """Read a streamed answer. Raises ServerFailed unless it ended as a stream should.

    With `partial`, an answer that is still coming, or was cancelled by us, is read as far as it
    came.
    """
    if reply.status != 200:
        raise ServerFailed(f"the server answered {reply.status}: {_error_text(reply.body)}")
    times_s: list[float] = []
    finish_s: float | None = None
    done_s: float | None = None
    usage: dict[str, int] = {}
    for at_s, data in _events(reply):
        if data == b"[DONE]":
            done_s = at_s
            break
        chunk = _parse_chunk(data)
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            if _has_text(choice):
                times_s.append(at_s)
            if choice.get("finish_reason"):
                finish_s = at_s
    end_s = finish_s if done_s is None else done_s
    if not partial and (end_s is None or not reply.complete):
        raise ServerFailed(f"the answer broke off after {len(times_s)} chunks of text")
    if not times_s and finish_s is not None and usage.get("completion_tokens"):
        times_s.append(finish_s)  # tokens without text, such as half a character
    if not times_s and not partial:
        raise ServerFailed("the answer holds no text: nothing was generated")
    return Timeline(
        token_times_s=tuple(times_s),
        end_s=math.nan if end_s is None else end_s,
        num_prompt_tokens=usage.get("prompt_tokens"),
        num_output_tokens=usage.get("completion_tokens", len(times_s)),
        counted_by="usage" if "completion_tokens" in usage else "chunks",
    )


def _events(reply: Reply) -> Iterator[tuple[float, bytes]]:
    """The `data` of each server-sent event, with the time at which its last byte arrived."""
    data: list[bytes] = []
    rest = b""
    for at_s, piece in reply.pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r")
            if text.startswith(b"data:"):
                data.append(text[5:].removeprefix(b" "))
            elif not text and data:
                yield at_s, b"\n".join(data)
                data.clear()


def _parse_chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ServerFailed(f"not an OpenAI stream: {_quote(data)} is not JSON") from None
    if isinstance(chunk, dict) and chunk.get("error"):
        raise ServerFailed(f"the server reported in the stream: {_error_text(data)}")
    if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
        raise ServerFailed(f"not an OpenAI stream: {_quote(data)} has no choices")
    return chunk


def _has_text(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or choice
    return any(delta.get(key) for key in ("text", "content", "reasoning_content", "reasoning"))


def _error_text(body: bytes) -> str:
    """The message of OpenAI's error shape, else the beginning of the body."""
    try:
        error = orjson.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _quote(body)


def _quote(data: bytes) -> str:
    return repr(data[:MAX_QUOTED_CHARS].decode(errors="replace"))
