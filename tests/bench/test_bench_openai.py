"""Reading an OpenAI stream: what counts as a token, and what is no proper answer."""

import json
from typing import Any

import pytest

from llamastream.bench.errors import ServerFailed
from llamastream.bench.exchange import Reply
from llamastream.bench.openai import RequestOptions, read_timeline


def reply_of(
    *events: dict[str, Any] | str, status: int = 200, complete: bool = True, newline: str = "\n"
) -> Reply:
    """A reply whose event k arrived, as a piece of its own, at second k."""
    datas = [event if isinstance(event, str) else json.dumps(event) for event in events]
    pieces = [f"data: {data}{newline}{newline}".encode() for data in datas]
    return Reply(status, [(float(n), piece) for n, piece in enumerate(pieces)], complete)


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
    reply = reply._replace(pieces=[(-1.0, ping), *reply.pieces])
    assert read_timeline(reply).token_times_s == (0.0, 1.0)


def test_an_event_arrives_with_its_last_byte_wherever_the_network_cuts_it() -> None:
    body = reply_of(text("a", "stop"), newline="\r\n").body
    for cut in range(1, len(body)):
        reply = Reply(200, [(0.0, body[:cut]), (1.0, body[cut:])], True)
        assert read_timeline(reply).token_times_s == (1.0,)


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
        (Reply(429, [(0.0, b'{"error": {"message": "full"}}')], True), "429: full"),
        (Reply(400, [(0.0, b'{"error": "bad"}')], True), "400: bad"),
        (Reply(502, [(0.0, b"<html>")], True), "502: '<html>'"),
    ],
)
def test_what_is_no_proper_answer_is_an_error_and_never_a_number(
    reply: Reply, message: str
) -> None:
    with pytest.raises(ServerFailed, match=message):
        read_timeline(reply)


def test_request_body_of_both_apis() -> None:
    chat = json.loads(RequestOptions("chat", ignore_eos=False).body("m", "hi", 9))
    assert chat["messages"] == [{"role": "user", "content": "hi"}]
    assert not chat.keys() & {"ignore_eos", "repetition_penalty", "prompt"}
    raw = json.loads(RequestOptions("completions", ignore_eos=True).body("m", "hi", 9))
    assert (raw["prompt"], raw["ignore_eos"], raw["max_tokens"]) == ("hi", True, 9)
    assert raw["model"] == "m" and raw["temperature"] == 0 and raw["repetition_penalty"] == 1
    assert raw["stream"] is True and raw["stream_options"] == {"include_usage": True}
