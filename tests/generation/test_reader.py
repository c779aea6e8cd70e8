"""A reader never makes its writer wait, and never loses or repeats a piece."""

import asyncio
from collections.abc import Sequence

import pytest

from llamastream.errors import ChatError, EngineDead
from llamastream.generation import End, Generation
from llamastream.generation.choice import TextRules
from llamastream.generation.generation import Details
from llamastream.generation.reader import MAX_READ
from llamastream.records import Status
from llamastream.types import Delta, FinishReason, Usage

END = End(Status.COMPLETED, Usage(3, 0, 5), 0.0)
DETAILS = Details({}, TextRules((), frozenset(), False, True, False), False, 0, "m", None)


class Counting:
    """A keeper that counts readers, and leaves all else to the test."""

    def __init__(self) -> None:
        self.changes: list[int] = []

    def drawn(self, generations: Sequence[Generation]) -> None: ...
    def ended(self, generation: Generation) -> None: ...
    def failed(self, generation: Generation, error: ChatError) -> None: ...

    def readers_changed(self, generation: Generation, change: int) -> None:
        self.changes.append(change)


def make() -> Generation:
    return Generation("a", DETAILS, [], Counting(), created_at=0.0)


def push(
    generation: Generation, choice: int, text: str, reason: FinishReason | None = None
) -> None:
    generation.log.append(choice, text, 1, None, reason)
    generation.publish(len(generation.log))


def texts(deltas: list[Delta]) -> list[str]:
    return [delta.text for delta in deltas]


async def test_a_reader_that_keeps_up_sees_every_delta_as_it_was_made() -> None:
    generation = make()
    seen = []

    async def read() -> None:
        with generation.follow() as reader:
            async for delta in reader:
                seen.append((delta.sequence_number, delta.text))

    reading = asyncio.create_task(read())
    for letter in "abc":
        push(generation, 0, letter)
        await asyncio.sleep(0)
    generation.finish(END)
    await reading
    assert seen == [(0, "a"), (1, "b"), (2, "c")]


async def test_a_reader_that_lags_gets_every_delta_a_bounded_number_at_a_time() -> None:
    generation = make()
    with generation.follow() as reader:
        for _ in range(2 * MAX_READ):
            push(generation, 0, "x")
            push(generation, 1, "y")
        push(generation, 1, "!", FinishReason.STOP)
        generation.finish(END)
        sizes, deltas = [], []
        while not reader.exhausted:
            part = await reader.read()
            sizes.append(len(part))
            deltas += part
    assert max(sizes) == MAX_READ
    assert [delta.sequence_number for delta in deltas] == list(range(4 * MAX_READ + 1))
    assert "".join(d.text for d in deltas if d.choice == 1) == "y" * 2 * MAX_READ + "!"
    assert [d.finish_reason for d in deltas[-2:]] == [None, FinishReason.STOP]


async def test_readers_from_any_position_see_the_same() -> None:
    generation = make()
    for letter in "abcdef":
        push(generation, 0, letter)
    generation.finish(END)
    for start in range(7):
        with generation.follow(start) as reader:
            assert texts(await reader.read()) == list("abcdef")[start:]
            assert reader.exhausted


async def test_what_is_not_public_is_not_read() -> None:
    generation = make()
    for letter in "abc":
        generation.log.append(0, letter, 1)
    generation.publish(2)
    with generation.follow() as reader:
        assert texts(await reader.read()) == ["a", "b"]
        assert await reader.read(timeout_s=0.001) == []
        generation.publish(3)
        assert texts(await reader.read()) == ["c"]


async def test_what_is_taken_at_once_is_not_read_and_what_is_refused_keeps_its_place() -> None:
    generation = make()
    offered: list[str] = []

    def take(delta: Delta) -> bool:
        offered.append(delta.text)
        return delta.text != "c"

    push(generation, 0, "a")
    with generation.follow(0, take) as reader:
        assert texts(await reader.read()) == ["a"]
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        for letter in "bcd":
            push(generation, 0, letter)
        assert texts(await reading) == ["c", "d"]
        push(generation, 0, "e")  # nobody waits now
    assert offered == ["b", "c"]


async def test_nothing_is_taken_behind_the_end() -> None:
    """Frames that were pushed after the end was on its way came behind the last chunk of HTTP."""
    generation = make()
    offered: list[str] = []

    def take(delta: Delta) -> bool:
        offered.append(delta.text)
        return True

    with generation.follow(0, take) as reader:
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        push(generation, 0, "a")
        generation.fail(EngineDead("gone"))
        push(generation, 0, "late")
        assert texts(await reading) == ["late"]
        with pytest.raises(EngineDead):
            await reader.read()
    assert offered == ["a"]


async def test_taking_leaves_the_end_to_the_reader() -> None:
    generation = make()
    with generation.follow(0, lambda _: True) as reader:
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        push(generation, 0, "a", FinishReason.STOP)
        generation.finish(END)
        assert await reading == []
        assert reader.exhausted


async def test_taking_is_no_silence() -> None:
    generation = make()
    with generation.follow(0, lambda _: True) as reader:
        reading = asyncio.create_task(reader.read(timeout_s=0.05))
        await asyncio.sleep(0)
        push(generation, 0, "a")
        await asyncio.sleep(0.06)
        assert not reading.done()  # it waits for a whole silent interval
        assert await reading == []


async def test_an_error_is_raised_after_everything_before_it() -> None:
    generation = make()
    with generation.follow() as reader:
        push(generation, 0, "half")
        generation.fail(EngineDead("gone"))
        assert not reader.exhausted
        assert texts(await reader.read()) == ["half"]
        with pytest.raises(EngineDead, match="gone"):
            await reader.read()


async def test_an_answer_that_goes_on_after_an_error_is_read_on() -> None:
    generation = make()
    with generation.follow() as reader:
        generation.fail(EngineDead("gone for now"))
        generation.error = None
        push(generation, 0, "a")
        assert texts(await reader.read()) == ["a"]


async def test_closing_wakes_the_reader_and_its_keeper_hears_of_each_reader() -> None:
    generation = make()
    with generation.follow() as reader:
        reading = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        reader.close()
        reader.close()
        assert await reading == []
        push(generation, 0, "late")
        assert await reader.read() == []
    assert generation.keeper.changes == [1, -1]  # type: ignore[attr-defined]


async def test_reading_with_a_time_limit_comes_back_empty() -> None:
    with make().follow() as reader:
        assert await reader.read(timeout_s=0.001) == []
        assert not reader.exhausted


def test_a_choice_is_joined_from_its_own_deltas() -> None:
    generation = make()
    for text, choice in (("a", 0), ("x", 1), ("b", 0)):
        generation.log.append(choice, text, ord(text))
    generation.log.append(1, "!", reason=FinishReason.LENGTH)
    first, second = generation.log.joined(2)
    assert (first.text, first.token_ids, first.finish_reason) == ("ab", (97, 98), None)
    assert (second.text, second.token_ids, second.finish_reason) == (
        "x!",
        (120,),
        FinishReason.LENGTH,
    )
