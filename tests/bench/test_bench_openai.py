"""Reading an OpenAI stream: what counts as a token, and what is no proper answer."""

import json
from typing import Any

import pytest

from llamastream.bench.errors import ServerFailed
from llamastream.bench.exchange import Reply
from llamastream.bench.openai import RequestBody, read_timeline


def reply_of(
    *events: dict[str, Any] | str, status: int = 200, complete: bool = True, newline: str = "\n"
) -> Reply:
    """A reply whose event k arrived, as a piece of its own, at second k."""
    datas = [event if isinstance(event, str) else json.dumps(event) for event in events]
    pieces = [f"data: {data}{newline}{newline}".encode() for data in datas]
    ends = [sum(map(len, pieces[: n + 1])) for n in range(len(pieces))]
    times_s = [float(n) for n in range(len(pieces))]
    return Reply(status, b"".join(pieces), complete, ends, times_s)


def text(content: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": content, "finish_reason": finish}]}


def delta(finish: str | None = None, **fields: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [], "usage": counts}


def test_tokens_are_counted_by_the_servers_usage_where_there_is_one() -> None:
    reply = reply_of(text("a"), text("bc"), text("", "length"), usage(7, 5), "[DONE]")
    timeline = read_timeline(reply)
    assert timeline.token_times_s == (0.0, 1.0)
    assert timeline.end_s == 4.0
    assert (timeline.num_prompt_tokens, timeline.num_output_tokens) == (7, 5)
    assert timeline.counted_by == "usage"


def test_tokens_are_counted_by_chunks_of_text_without_usage() -> None:
    timeline = read_timeline(reply_of(text("a"), text("b"), text("", "stop"), "[DONE]"))
    assert (timeline.num_prompt_tokens, timeline.num_output_tokens) == (None, 2)
    assert timeline.counted_by == "chunks"


def test_a_chat_role_is_no_token() -> None:
    timeline = read_timeline(
        reply_of(delta(role="assistant", content=""), delta(content="a"), delta("stop"), "[DONE]")
    )
    assert timeline.token_times_s == (1.0,)


def test_reasoning_counts_as_text() -> None:
    timeline = read_timeline(
        reply_of(delta(reasoning_content="a"), delta(reasoning="b"), delta("stop"), "[DONE]")
    )
    assert timeline.token_times_s == (0.0, 1.0)


def test_tokens_without_text_arrive_with_the_finish() -> None:
    timeline = read_timeline(reply_of(text(""), text("", "length"), usage(3, 1), "[DONE]"))
    assert timeline.token_times_s == (1.0,)


def test_a_stream_may_end_without_done_if_it_says_why_it_finished() -> None:
    assert read_timeline(reply_of(text("a"), text("b", "stop"))).end_s == 1.0


def test_crlf_and_comments_are_read_as_server_sent_events_allow() -> None:
    reply = reply_of(text("a"), text("b", "stop"), newline="\r\n")
    ping = b": ping\r\n\r\n"
    shifted = [end + len(ping) for end in reply.ends]
    reply = reply._replace(body=ping + reply.body, ends=shifted)
    assert read_timeline(reply).token_times_s == (0.0, 1.0)


def test_a_stream_that_is_still_coming_can_be_read_so_far() -> None:
    timeline = read_timeline(reply_of(text("a"), complete=False), partial=True)
    assert timeline.token_times_s == (0.0,)
    assert timeline.end_s != timeline.end_s  # NaN
    assert read_timeline(reply_of(complete=False), partial=True).token_times_s == ()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (reply_of(text("a"), complete=False), "broke off after 1 chunks"),
        (reply_of(text("a"), "[DONE]", complete=False), "broke off"),
        (reply_of(text("a")), "broke off"),
        (reply_of(text("", "stop"), "[DONE]"), "no text"),
        (reply_of("hello", "[DONE]"), "'hello' is not JSON"),
        (reply_of({"id": 1}, "[DONE]"), "has no choices"),
        (reply_of("[1]", "[DONE]"), "has no choices"),
        (reply_of({"error": {"message": "out of blocks"}}), "out of blocks"),
        (Reply(429, b'{"error": {"message": "full"}}', True, [30], [0.0]), "429: full"),
        (Reply(400, b'{"error": "bad"}', True, [16], [0.0]), "400: bad"),
        (Reply(502, b"<html>", True, [6], [0.0]), "502: '<html>'"),
    ],
)
def test_what_is_no_proper_answer_is_an_error_and_never_a_number(
    reply: Reply, message: str
) -> None:
    with pytest.raises(ServerFailed, match=message):
        read_timeline(reply)


def test_request_body_of_both_apis() -> None:
    chat = json.loads(RequestBody("chat", "m", 9, 0.5, ignore_eos=False).encode("hi"))
    assert chat["messages"] == [{"role": "user", "content": "hi"}]
    assert "ignore_eos" not in chat and "prompt" not in chat
    raw = json.loads(RequestBody("completions", "m", 9, 0.5, ignore_eos=True).encode("hi"))
    assert (raw["prompt"], raw["ignore_eos"], raw["max_tokens"]) == ("hi", True, 9)
    assert raw["stream"] is True and raw["stream_options"] == {"include_usage": True}
