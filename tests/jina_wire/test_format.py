"""What a reader on the Jina wire is shown of the deltas that wait for it."""

import orjson
import pytest

from llamastream.generation import Generation
from llamastream.generation.choice import TextRules
from llamastream.generation.generation import Details
from llamastream.jina.format import MAX_APART, DocumentFormat
from llamastream.types import Delta, FinishReason, TokenLogprob
from tests.generation.test_reader import Counting

RULES = TextRules((), frozenset(), False, True, False)


def make(*, is_stored: bool) -> DocumentFormat:
    details = Details({"max_tokens": None}, RULES, False, 0, "m", None)
    generation = Generation("stream_a", details, [], Counting(), created_at=0.0)
    generation.is_stored = is_stored
    return DocumentFormat(
        generation, after=-1, encode=orjson.dumps, encode_error=lambda _: b"", last=[]
    )


def waiting(number: int) -> list[Delta]:
    entries = [TokenLogprob(k, b"%d " % k, -0.5 * k) for k in range(number)]
    deltas = [Delta(0, k, f"{k} ", (k,), (entries[k],)) for k in range(number)]
    deltas[-1] = deltas[-1]._replace(finish_reason=FinishReason.STOP)
    return deltas


def test_what_waits_for_one_that_lags_is_one_document_of_all() -> None:
    wire, deltas = make(is_stored=False), waiting(MAX_APART + 1)
    (joined,) = wire.gather(deltas)
    assert joined.text == "".join(delta.text for delta in deltas)
    assert joined.token_ids == tuple(range(MAX_APART + 1))
    assert joined.logprobs == tuple(entry for delta in deltas for entry in delta.logprobs)
    assert joined.finish_reason is FinishReason.STOP
    assert joined.sequence_number == deltas[-1].sequence_number  # where it would be resumed
    (frame,) = wire.frames(joined)
    document = orjson.loads(frame)
    assert document["generated_text"] == joined.text
    assert (document["token_id"], document["sequence_number"]) == (MAX_APART, MAX_APART)
    assert (document["logprob"], document["finish_reason"]) == (-0.5 * MAX_APART, "stop")


@pytest.mark.parametrize(
    ("is_stored", "number"), [(False, 1), (False, MAX_APART), (True, MAX_APART + 1), (True, 5000)]
)
def test_few_and_stored_ones_stay_apart(is_stored: bool, number: int) -> None:
    """Of a stored answer every reader gets the same documents."""
    deltas = waiting(number)
    wire = make(is_stored=is_stored)
    assert wire.gather(deltas) == deltas
    frames = [frame for delta in deltas for frame in wire.frames(delta)]
    assert len(frames) == number


def test_nothing_is_made_of_nothing() -> None:
    assert make(is_stored=False).gather([]) == []
