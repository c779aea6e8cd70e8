"""What a key may have: counted where every request passes, and given back when it ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llamastream.errors import Overloaded, RateLimited
from llamastream.generation.engine import Engine
from llamastream.generation.quotas import Quotas, Room
from llamastream.keys import Keys, digest_of
from llamastream.records import ScopeUsage
from llamastream.sampling import SamplingParams
from llamastream.types import Event, Finished, GenerationRequest
from tests.doubles.engine import FakeEngine
from tests.doubles.waiting import until


class Limited:
    """An engine that draws a token of every request for each `allow`, behind the limits of the key
    "alice", whose scope is "a". "b" has none."""

    def __init__(self, file: Path, limits: dict[str, int], **engine: int) -> None:
        lines = [f"{name} = {value}" for name, value in limits.items()]
        entries = ['[[keys]]\nname = "bob"\nscope = "b"', f'sha256 = "{digest_of("b").hex()}"']
        entries += ['[[keys]]\nname = "alice"\nscope = "a"', f'sha256 = "{digest_of("a").hex()}"']
        file.write_text("\n".join([*entries, "[keys.limits]", *lines]))
        self.now_s = 0.0
        self.quotas = Quotas(Keys(path=file), clock=lambda: self.now_s)
        self.inner = FakeEngine(lambda _: [5], manual=True, **engine)
        self.engine: Engine = self.quotas.over(self.inner)
        self.events: list[Event] = []

    def submit(
        self, *ids: str, scope: str = "a", num_prompt: int = 1, output_ids: tuple[int, ...] = ()
    ) -> None:
        for id in ids:
            self.engine.submit(
                GenerationRequest(
                    id,
                    [1] * num_prompt,
                    SamplingParams(max_tokens=100),
                    output_ids=output_ids,
                    scope=scope,
                )
            )

    async def step(self, count: int = 1) -> None:
        before = len(self.events)
        self.inner.allow(count)
        await until(lambda: len(self.events) > before and self.inner._permits <= 0)

    async def end(self, id: str) -> None:
        self.engine.cancel(id)
        await until(
            lambda: any(isinstance(e, Finished) and e.request_id == id for e in self.events)
        )

    @property
    def rooms(self) -> dict[str, Room]:
        return self.quotas.rooms("a")


MakeLimited = Callable[..., Awaitable[Limited]]


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[MakeLimited]:
    async with AsyncExitStack() as stack:

        async def make(**limits: int) -> Limited:
            made = Limited(tmp_path / "keys.toml", limits)
            made.engine.start(made.events.extend, lambda: None)
            stack.push_async_callback(made.engine.stop)
            return made

        yield make


async def test_requests_in_progress_are_limited_until_they_end(limited: MakeLimited) -> None:
    some = await limited(max_requests=2)
    some.submit("1", "2")
    with pytest.raises(RateLimited, match="max_requests .* 2.* Given: 2") as caught:
        some.submit("3")
    assert caught.value.retry_after_s >= 1
    some.submit("b1", "b2", "b3", scope="b")
    assert some.rooms == {"requests": Room(2, 0, 1)}
    await some.end("1")
    some.submit("4")
    with pytest.raises(RateLimited):
        some.submit("5")


async def test_those_that_wait_for_their_first_token_are_limited(limited: MakeLimited) -> None:
    some = await limited(max_waiting=2)
    some.submit("1", "2")
    with pytest.raises(RateLimited, match="max_waiting"):
        some.submit("3")
    await some.step()
    some.submit("3", "4")
    with pytest.raises(RateLimited):
        some.submit("5")
    await some.end("4")
    some.submit("5")


async def test_tokens_of_prompts_and_answers_are_counted_and_come_back(
    limited: MakeLimited,
) -> None:
    some = await limited(max_tokens_per_minute=60)
    some.submit("1", num_prompt=50)
    assert some.rooms["tokens"] == Room(60, 10, 50)
    await some.step(10)
    with pytest.raises(RateLimited, match="max_tokens_per_minute .* 60.* Given: 60") as caught:
        some.submit("2")
    assert caught.value.retry_after_s == 1
    some.now_s += 1
    some.submit("2", num_prompt=100)  # as long as there is one token, it may be overdrawn
    assert some.rooms["tokens"].remaining == 0
    with pytest.raises(RateLimited) as caught:
        some.submit("3")
    some.now_s += caught.value.retry_after_s
    some.submit("3")
    some.now_s += 1000
    assert some.rooms["tokens"] == Room(60, 60, 0)


async def test_a_limit_of_0_lets_nothing_in(limited: MakeLimited) -> None:
    for name in ("max_requests", "max_waiting", "max_tokens_per_minute"):
        some = await limited(**{name: 0})
        with pytest.raises(RateLimited):
            some.submit("1")


async def test_what_the_engine_refuses_is_not_counted(limited: MakeLimited) -> None:
    some = await limited(max_requests=2, max_tokens_per_minute=100)
    some.inner.max_num_seqs = some.inner.max_num_waiting = 0
    with pytest.raises(Overloaded):
        some.submit("1", num_prompt=10)
    assert some.rooms == {"requests": Room(2, 2, 0), "tokens": Room(100, 100, 0)}


async def test_an_answer_that_was_interrupted_goes_on_whatever_its_key_has(
    limited: MakeLimited,
) -> None:
    some = await limited(max_requests=1, max_tokens_per_minute=100)
    some.submit("1", num_prompt=99)
    some.submit("2", num_prompt=99, output_ids=(5, 5))
    assert some.rooms["tokens"].remaining == 1


async def test_counts_go_by_names(limited: MakeLimited) -> None:
    some = await limited()
    some.submit("1", num_prompt=3)
    some.submit("b1", "b2", scope="b", num_prompt=4)
    await some.step()
    found = {
        name: (u.num_requests, u.num_prompt_tokens, u.num_output_tokens)
        for name, u in some.quotas.by_name()
    }
    assert found == {"alice": (1, 3, 1), "bob": (2, 8, 2)}


async def test_without_keys_nothing_stands_before_the_engine() -> None:
    engine = FakeEngine(lambda _: [5])
    assert Quotas(Keys()).over(engine) is engine


async def test_what_is_stored_is_limited(limited: MakeLimited) -> None:
    some = await limited(max_stored_bytes=100, max_stored_responses=3)
    allow = some.quotas.allow_store("a")
    allow(ScopeUsage(2, 99), is_response=True)
    with pytest.raises(RateLimited, match="max_stored_bytes .* 100.* Given: 100"):
        allow(ScopeUsage(2, 100), is_response=True)
    with pytest.raises(RateLimited, match="max_stored_responses .* 3.* Given: 3"):
        allow(ScopeUsage(3, 0), is_response=True)
    allow(ScopeUsage(3, 0), is_response=False)
    some.quotas.allow_store("b")(ScopeUsage(1000, 1000), is_response=True)
