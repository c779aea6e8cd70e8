"""Requests become streams: text, stops, counts, and who is told when somebody leaves."""

import logging
from collections.abc import Sequence

import pytest

from llamastream.errors import (
    ContextLengthExceeded,
    EngineDead,
    InternalError,
    Overloaded,
)
from llamastream.generation import Answers, Generation
from llamastream.generation.answers import Ephemeral
from llamastream.sampling import SamplingParams
from llamastream.types import (
    ChatRequest,
    Delta,
    EngineState,
    FinishReason,
    GenerationRequest,
    Message,
)
from tests.doubles.engine import FakeEngine
from tests.doubles.service import open_answer, running_service, says
from tests.doubles.tokenizer import IM_END
from tests.doubles.waiting import until

HI = (Message("user", "hi"),)


async def collect(generation: Generation) -> list[Delta]:
    with generation.follow() as reader:
        return [delta async for delta in reader]


async def answer(answers: Answers, request: ChatRequest) -> tuple[str, Generation, list[Delta]]:
    generation = await open_answer(answers, request)
    deltas = await collect(generation)
    return "".join(delta.text for delta in deltas), generation, deltas


async def test_an_answer_has_text_ids_one_finish_and_counts() -> None:
    async with running_service(FakeEngine(says("Hé 😀"))) as service:
        text, stream, deltas = await answer(service, ChatRequest(HI))
    assert text == "Hé 😀"
    ids = [token_id for delta in deltas for token_id in delta.token_ids]
    assert ids == [*"Hé 😀".encode(), IM_END]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [FinishReason.STOP]
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert [delta.sequence_number for delta in deltas] == list(range(len(deltas)))
    assert stream.usage() == (len(stream.prompts[0]), 0, len(ids), 0)


async def test_an_incomplete_character_comes_out_at_the_end() -> None:
    request = ChatRequest(HI, sampling=SamplingParams(max_tokens=2))
    async with running_service(FakeEngine(says("😀"))) as service:
        text, _, deltas = await answer(service, request)
    assert text == "\ufffd"
    assert deltas[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(("include_stop", "shown"), [(False, "one "), (True, "one two")])
async def test_a_stop_string_ends_the_answer_and_the_engine_request(
    include_stop: bool, shown: str
) -> None:
    engine = FakeEngine(says("one two three four"))
    async with running_service(engine) as service:
        request = ChatRequest(HI, stop=("two",), include_stop=include_stop)
        text, stream, deltas = await answer(service, request)
    assert text == shown
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert engine.cancelled == [engine.submitted[0].request_id]
    assert stream.usage().num_output_tokens == len("one two")  # whatever the engine did further


async def test_what_was_held_back_for_a_stop_string_is_flushed_at_the_end() -> None:
    async with running_service(FakeEngine(says("wait, tw"))) as service:
        text, _, _ = await answer(service, ChatRequest(HI, stop=("two",)))
    assert text == "wait, tw"


async def test_stop_tokens_are_hidden_and_those_of_the_model_can_be_ignored() -> None:
    ids = [*b"ab", IM_END, *b"c!", *b"d"]
    async with running_service(FakeEngine(lambda _: ids)) as service:
        stop = SamplingParams(stop_token_ids=frozenset(b"!"))
        assert (await answer(service, ChatRequest(HI, sampling=stop)))[0] == "ab"
        assert (await answer(service, ChatRequest(HI, sampling=stop, ignore_eos=True)))[0] == "abc"
        shown = ChatRequest(
            HI, sampling=stop, ignore_eos=True, include_stop=True, skip_special_tokens=False
        )
        assert (await answer(service, shown))[0] == "ab<|im_end|>c!"


async def test_choices_draw_with_seeds_of_their_own_and_come_interleaved() -> None:
    engine = FakeEngine(says("abc"))
    sampling = SamplingParams(seed=2**64 - 1)
    async with running_service(engine) as service:
        _, stream, deltas = await answer(service, ChatRequest(HI, sampling=sampling, n=3))
    assert [r.sampling.seed for r in engine.submitted] == [
        2**64 - 1,
        0x9E3779B97F4A7C14,
        0x3C6EF372FE94F829,
    ]
    assert [delta.choice for delta in deltas][:6] == [0, 1, 2, 0, 1, 2]
    for index in range(3):
        assert "".join(delta.text for delta in deltas if delta.choice == index) == "abc"
    assert stream.usage().num_output_tokens == 12


async def test_a_seed_is_drawn_for_a_request_without_one() -> None:
    engine = FakeEngine(says("a"))
    async with running_service(engine) as service:
        await answer(service, ChatRequest(HI, n=2))
    seeds = {request.sampling.seed for request in engine.submitted}
    assert len(seeds) == 2
    assert None not in seeds


async def test_api_keys_do_not_share_prefix_caches() -> None:
    engine = FakeEngine(says("a"))
    async with running_service(engine) as service:
        for scope in ("", "alice", "bob"):
            await answer(service, ChatRequest(HI, scope=scope))
    assert len({request.cache_salt for request in engine.submitted}) == 3


async def test_choices_without_room_for_all_are_refused_before_anything_is_done_for_them() -> None:
    engine = FakeEngine(says("abc"), max_num_seqs=1, max_num_waiting=1)
    async with running_service(engine) as service:
        with pytest.raises(Overloaded):
            await open_answer(service, ChatRequest(HI, n=3))
        too_long = ChatRequest((Message("user", "Hi" * engine.max_model_len),), n=3)
        with pytest.raises(Overloaded):  # its prompt was not read: that would say it does not fit
            await open_answer(service, too_long)
        assert not engine.submitted and not engine.cancelled


async def test_a_reader_that_leaves_cancels_all_its_choices_and_nobody_elses() -> None:
    engine = FakeEngine(says("x" * 100), manual=True)
    async with running_service(engine) as service:
        leaver = await open_answer(service, ChatRequest(HI, n=2), "leaver")
        other = await open_answer(service, ChatRequest(HI), "other")
        engine.allow()
        with leaver.follow() as reader, leaver.follow() as second:
            assert len(await reader.read()) == 2
            second.close()
        assert sorted(engine.cancelled) == [r.request_id for r in engine.submitted[:2]]
        assert await reader.read() == []
        engine.allow(1000)
        assert "".join([delta.text for delta in await collect(other)]) == "x" * 100
        assert other.usage().num_output_tokens == 101


async def test_a_failed_request_raises_at_its_reader_after_what_it_had_said() -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with running_service(engine) as service:
        stream = await open_answer(service, ChatRequest(HI, n=2), "failing")
        other = await open_answer(service, ChatRequest(HI), "other")
        engine.allow()
        await until(lambda: engine.num_steps == 1)
        engine.fail(engine.submitted[1].request_id, InternalError("the runner failed"))
        deltas = []
        with stream.follow() as reader:
            with pytest.raises(InternalError, match="runner failed"):
                async for delta in reader:
                    deltas.append(delta)
        assert [delta.text for delta in deltas] == ["a", "a"]
        assert engine.cancelled == [engine.submitted[0].request_id]
        engine.allow(10)
        assert "".join([delta.text for delta in await collect(other)]) == "abc"


async def test_a_dead_engine_reaches_every_present_and_later_request() -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with running_service(engine) as service:
        streams = [await open_answer(service, ChatRequest(HI), f"{k}") for k in range(3)]
        engine.die(EngineDead("out of memory"))
        for stream in streams:
            with pytest.raises(EngineDead, match="out of memory"):
                await collect(stream)
        with pytest.raises(EngineDead, match="restarted"):
            await open_answer(service, ChatRequest(HI))


async def test_an_engine_that_ends_without_a_word_ends_all_streams() -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with running_service(engine) as service:
        stream = await open_answer(service, ChatRequest(HI))
        engine.crash()
        with pytest.raises(EngineDead):
            await collect(stream)
        with pytest.raises(EngineDead):
            await open_answer(service, ChatRequest(HI))


async def test_a_bug_met_by_a_whole_step_ends_all_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Ephemeral):
        def drawn(self, generations: Sequence[Generation]) -> None:
            raise RuntimeError("a bug")

    engine = FakeEngine(says("abc"), manual=True)
    async with running_service(engine) as service:
        first = await open_answer(service, ChatRequest(HI), "first")
        second = await open_answer(service, ChatRequest(HI), "second")
        second.keeper = Broken(service.dispatcher)
        engine.allow()
        for generation in (first, second):
            with pytest.raises(InternalError):
                await collect(generation)
        with pytest.raises(EngineDead):
            await open_answer(service, ChatRequest(HI))
    assert "a bug" in caplog.text


async def test_a_bug_met_by_one_answer_does_not_end_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(request: GenerationRequest) -> list[int]:
        poisoned = b"poison" in bytes(i for i in request.prompt_ids if i < 256)
        return ["?"] if poisoned else [*b"fine", IM_END]  # type: ignore[list-item]

    engine = FakeEngine(script)
    async with running_service(engine) as service:
        poisoned = await open_answer(service, ChatRequest((Message("user", "poison"),)), "poisoned")
        other = await open_answer(service, ChatRequest(HI), "other")
        with pytest.raises(InternalError, match="decoding"):
            await collect(poisoned)
        assert "".join(delta.text for delta in await collect(other)) == "fine"
        assert engine.cancelled == [engine.submitted[0].request_id]
        assert service.num_open == 0
    assert "Traceback" in caplog.text


async def test_a_bug_at_admission_takes_the_admitted_choices_with_it() -> None:
    scripts = [[*b"abc", IM_END]]
    engine = FakeEngine(lambda _: scripts.pop(), manual=True)  # nothing for the second choice
    async with running_service(engine) as service:
        with pytest.raises(IndexError):
            await open_answer(service, ChatRequest(HI, n=2))
        assert engine.num_alive == service.num_open == 0


async def test_a_model_that_is_loading_is_not_ready() -> None:
    engine = FakeEngine(says("a"), state=EngineState.LOADING)
    async with running_service(engine) as service:
        with pytest.raises(EngineDead, match="still loading"):
            await open_answer(service, ChatRequest(HI))


async def test_a_prompt_over_the_context_is_refused_before_the_engine() -> None:
    engine = FakeEngine(says("a"), max_model_len=64)
    async with running_service(engine) as service:
        for prompt in ((Message("user", "x" * 64),), "x" * 65, tuple(b"x" * 65)):
            with pytest.raises(ContextLengthExceeded, match="64"):
                await open_answer(service, ChatRequest(prompt))
    assert engine.submitted == []


async def test_truncation_drops_old_turns_and_says_how_many() -> None:
    engine = FakeEngine(says("a"), max_model_len=200)
    turns = tuple(
        Message("user" if i % 2 == 0 else "assistant", f"turn {i} " * 5) for i in range(9)
    )
    async with running_service(engine) as service:
        request = ChatRequest(turns, SamplingParams(max_tokens=20), truncation="auto")
        stream = await open_answer(service, request)
        await collect(stream)
    assert stream.details.num_dropped_turns > 0
    assert len(stream.prompts[0]) + 20 <= 200


async def test_a_finished_request_leaves_one_log_line_without_user_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="llamastream")
    async with running_service(FakeEngine(says("secret answer"))) as service:
        asked = ChatRequest((Message("user", "secret question"),), label="me")
        stream = await open_answer(service, asked)
        await collect(stream)
    (line,) = [r.getMessage() for r in caplog.records if "done" in r.getMessage()]
    assert f"done request_id={stream.id} label=me prompt=" in line
    assert "out=14 queue_ms=" in line
    assert "finish=stop" in line
    assert "secret" not in caplog.text


async def test_metrics_count_requests_tokens_and_the_engines_load() -> None:
    def script(request: GenerationRequest) -> list[int]:
        return [*b"abc", IM_END]

    engine = FakeEngine(script)
    async with running_service(engine) as service:
        await answer(service, ChatRequest(HI, n=2))
        leaver = await open_answer(service, ChatRequest(HI))
        with leaver.follow():
            pass
        await until(lambda: engine.cancelled)
        await answer(service, ChatRequest(HI))
        text = service.metrics.render().decode()
    assert 'llamastream_requests_total{outcome="stop"} 2.0' in text
    assert 'llamastream_requests_total{outcome="cancelled"} 1.0' in text
    assert "llamastream_time_to_first_token_seconds_count 2.0" in text
    assert "llamastream_running 0.0" in text
    assert "llamastream_kv_usage 0.0" in text
