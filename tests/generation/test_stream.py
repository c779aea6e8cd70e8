"""A stream never makes its writer wait and never loses or repeats a piece."""

import asyncio

import pytest

from llamastream.errors import EngineDead
from llamastream.generation.stream import MAX_PENDING, Stream
from llamastream.types import Delta, FinishReason, Usage

USAGE = Usage(3, 0, 5)


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def make_stream(on_close: Counter | None = None) -> Stream:
    return Stream("s", (1, 2, 3), num_dropped_turns=0, on_close=on_close or Counter())


def push(stream: Stream, choice: int, text: str, reason: FinishReason | None = None) -> None:
    ids = tuple(text.encode())
    stream.push(Delta(choice, stream.next_sequence_number(), text, ids, (), reason))


async def test_a_reader_that_keeps_up_sees_every_delta_as_it_was_made() -> None:
    stream = make_stream()
    seen = []

    async def read() -> None:
        async for delta in stream:
            seen.append((delta.sequence_number, delta.text))

    reader = asyncio.create_task(read())
    for letter in "abc":
        push(stream, 0, letter)
        await asyncio.sleep(0)
    stream.end(USAGE)
    await reader
    assert seen == [(0, "a"), (1, "b"), (2, "c")]
    assert stream.exhausted
    assert stream.usage() == USAGE


async def test_deltas_behind_a_lagging_reader_melt_into_one_per_choice() -> None:
    stream = make_stream()
    for _ in range(10_000):
        push(stream, 0, "x")
        push(stream, 1, "y")
    push(stream, 1, "!", FinishReason.STOP)
    push(stream, 0, "?", FinishReason.LENGTH)
    stream.end(USAGE)
    deltas = [delta async for delta in stream]
    assert len(deltas) == MAX_PENDING + 2
    for choice, letter, last in ((0, "x", "?"), (1, "y", "!")):
        own = [delta for delta in deltas if delta.choice == choice]
        text = "".join(delta.text for delta in own)
        assert text == letter * 10_000 + last
        assert b"".join(bytes(delta.token_ids) for delta in own).decode() == text
        assert [delta.finish_reason is not None for delta in own] == [False] * (len(own) - 1) + [
            True
        ]
    numbers = [delta.sequence_number for delta in deltas]
    assert numbers == sorted(numbers)


async def test_what_is_taken_at_once_is_not_read_and_what_is_refused_keeps_its_place() -> None:
    stream = make_stream()
    offered: list[str] = []

    def take(delta: Delta) -> bool:
        offered.append(delta.text)
        return delta.text != "c"

    push(stream, 0, "a")
    assert [delta.text for delta in await stream.read(None, take)] == ["a"]
    reader = asyncio.create_task(stream.read(None, take))
    await asyncio.sleep(0)
    for letter in "bcd":
        push(stream, 0, letter)
    assert [delta.text for delta in await reader] == ["c", "d"]
    push(stream, 0, "e")  # nobody waits now
    assert offered == ["b", "c"]


async def test_taking_leaves_the_end_to_the_reader() -> None:
    stream = make_stream()
    reader = asyncio.create_task(stream.read(None, lambda _: True))
    await asyncio.sleep(0)
    push(stream, 0, "a", FinishReason.STOP)
    stream.end(USAGE)
    assert await reader == []
    assert stream.exhausted


async def test_a_reader_that_catches_up_gets_single_deltas_again() -> None:
    stream = make_stream()
    for _ in range(MAX_PENDING + 10):
        push(stream, 0, "x")
    assert len(await stream.read()) == MAX_PENDING + 1
    push(stream, 0, "a")
    push(stream, 0, "b")
    assert [delta.text for delta in await stream.read()] == ["a", "b"]


async def test_an_error_is_raised_once_after_everything_before_it() -> None:
    stream = make_stream()
    push(stream, 0, "half")
    stream.fail(EngineDead("gone"))
    assert not stream.exhausted
    assert [delta.text for delta in await stream.read()] == ["half"]
    with pytest.raises(EngineDead, match="gone"):
        await stream.read()
    assert stream.exhausted
    assert await stream.read() == []


async def test_closing_tells_the_service_once_and_wakes_the_reader() -> None:
    on_close = Counter()
    stream = make_stream(on_close)
    reader = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    await stream.aclose()
    await stream.aclose()
    assert await reader == []
    assert on_close.calls == 1
    push(stream, 0, "late")
    assert await stream.read() == []


async def test_reading_with_a_time_limit_comes_back_empty() -> None:
    stream = make_stream()
    assert await stream.read(timeout_s=0.001) == []
    assert not stream.exhausted


async def test_usage_before_the_end_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="after the end"):
        make_stream().usage()
