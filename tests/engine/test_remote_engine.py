"""Engines on other machines: nothing lost or repeated, whichever of them dies, and when."""

import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server, serving
from tests.doubles.service import running_service
from tests.doubles.vllm import VOCAB_SIZE, StandIn, expected
from tests.doubles.waiting import until

from llamastream.config import EngineConfig
from llamastream.engine.remote import wire
from llamastream.engine.remote.remote_engine import RemoteEngine
from llamastream.engine.remote.replica import ProbeText, Replica
from llamastream.engine.remote.replicas import Replicas
from llamastream.errors import (
    ChatError,
    ContextLengthExceeded,
    EngineDead,
    InternalError,
    InvalidRequest,
    Overloaded,
)
from llamastream.sampling import SamplingParams
from llamastream.types import (
    EngineState,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    Token,
)

PROBE = ProbeText("héllo", list("héllo".encode()))


class Heard:
    """What the engine said, by request."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.has_ended = False

    def on_end(self) -> None:
        self.has_ended = True

    def tokens(self, request_id: str) -> list[Token]:
        of_it = [event for event in self.events if event.request_id == request_id]
        return [event for event in of_it if isinstance(event, Token)]

    def ids(self, request_id: str) -> list[int]:
        return [token.token_id for token in self.tokens(request_id)]

    def ends(self, request_id: str) -> list[Finished | Failed]:
        of_it = [event for event in self.events if event.request_id == request_id]
        return [event for event in of_it if isinstance(event, Finished | Failed)]

    async def end(self, request_id: str) -> Finished | Failed:
        await until(lambda: self.ends(request_id))
        (end,) = self.ends(request_id)
        return end


@asynccontextmanager
async def remote(
    *stand_ins: StandIn, patience_s: float = 60.0, key: str | None = None, **config: Any
) -> AsyncIterator[tuple[RemoteEngine, Heard]]:
    """An engine in front of servers on real sockets, ready."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serving(each.app)) for each in stand_ins]
        async with engine_at(*urls, patience_s=patience_s, key=key, **config) as (engine, heard):
            await engine.ready()
            await until(lambda: all(each.num_checks for each in stand_ins))
            yield engine, heard


@asynccontextmanager
async def engine_at(
    *urls: str, patience_s: float = 60.0, key: str | None = None, **config: Any
) -> AsyncIterator[tuple[RemoteEngine, Heard]]:
    replicas = [Replica(url, key, PROBE, check_timeout_s=0.3) for url in urls]
    together = Replicas(replicas, check_every_s=0.01, patience_s=patience_s)
    engine, heard = RemoteEngine(together, EngineConfig(**config), vocab_size=VOCAB_SIZE), Heard()
    engine.start(heard.events.extend, heard.on_end)
    try:
        yield engine, heard
    finally:
        await engine.stop()
        assert heard.has_ended


def asks(request_id: str = "a", **sampling: Any) -> GenerationRequest:
    params = {"max_tokens": 40, "seed": 5} | sampling
    prompt = tuple(f"tell {request_id}".encode())
    return GenerationRequest(request_id, prompt, SamplingParams(**params))


@pytest.mark.parametrize("offers_generate", [True, False])
async def test_tokens_come_as_they_are_drawn(offers_generate: bool) -> None:
    stand_in = StandIn(offers_generate=offers_generate)
    async with remote(stand_in) as (engine, heard):
        engine.submit(asks(logprobs=2))
        end = await heard.end("a")
        assert end == Finished("a", FinishReason.LENGTH, 6, 0, 40)
        tokens = heard.tokens("a")
        assert [token.token_id for token in tokens] == expected(asks(), 40)
        assert [token.position for token in tokens] == list(range(40))
        # The two likeliest, though the wire names the drawn one first and ends after three.
        assert {token.top_logprobs for token in tokens} == {((0, -0.25), (1, -0.5))}
        assert {token.logprob for token in tokens} == {-9.5}


async def test_what_is_sent_has_their_names() -> None:
    stand_in = StandIn()
    async with remote(stand_in) as (engine, heard):
        request = asks(
            temperature=0.5,
            top_k=3,
            min_p=0.1,
            seed=2**64 - 1,
            logit_bias=((7, -2.0),),
            stop_token_ids=frozenset({257, 3}),
            min_tokens=2,
            allowed_token_ids=tuple(range(200)),
        )
        engine.submit(GenerationRequest(*("a", request.prompt_ids, request.sampling), (), b"salt"))
        await heard.end("a")
    (body,) = stand_in.bodies
    sampling = body["sampling_params"]
    assert (body["model"], body["stream"]) == ("the-model", True)
    assert body["cache_salt"] == hashlib.sha256(b"salt").hexdigest()
    assert body["token_ids"] == list(request.prompt_ids)
    assert sampling.pop("allowed_token_ids") == list(range(200))
    assert sampling == {
        "max_tokens": 40,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 1.0,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": {"7": -2.0},
        "seed": 2**63 - 1,
        "stop_token_ids": [3, 257],
        "ignore_eos": True,
        "detokenize": False,
    }


async def test_a_stop_token_is_reported_and_ends_it() -> None:
    ids = expected(asks(), 40)
    stop = ids[10]
    async with remote(StandIn()) as (engine, heard):
        engine.submit(asks(stop_token_ids=frozenset({stop})))
        end = await heard.end("a")
    assert heard.ids("a") == ids[: ids.index(stop) + 1]
    assert isinstance(end, Finished) and end.reason is FinishReason.STOP


async def test_a_request_that_wants_no_token_gets_none() -> None:
    async with remote(StandIn()) as (engine, heard):
        engine.submit(asks(max_tokens=0))
        assert await heard.end("a") == Finished("a", FinishReason.LENGTH, 6, 0, 0)
    assert not heard.tokens("a")


@pytest.mark.parametrize("dies_after", [0, 1, 50, 119])
async def test_what_a_dead_replica_had_in_hand_goes_on_at_another(dies_after: int) -> None:
    """The same ids as without a death, none twice and none missing."""
    first, second = StandIn(), StandIn(offers_generate=False)
    first.dies_after = dies_after
    async with remote(first, second) as (engine, heard):
        names = [f"r{i}" for i in range(6)]
        for name in names:
            engine.submit(asks(name, min_tokens=30))
        for name in names:
            end = await heard.end(name)
            assert isinstance(end, Finished), end
            assert heard.ids(name) == expected(asks(name), 40)
            assert [token.position for token in heard.tokens(name)] == list(range(40))
    assert first.is_dead
    for body in second.bodies:  # what was known is sent with the prompt, and counted
        num_known = len(body["prompt"]) - 7
        assert (body["max_tokens"], body["min_tokens"]) == (40 - num_known, max(30 - num_known, 0))


async def test_a_hung_replica_is_left() -> None:
    hung, well = StandIn(), StandIn()
    hung.holds_after = 5
    async with remote(hung, well) as (engine, heard):
        engine.submit(asks("r0"))
        engine.submit(asks("r1"))
        await until(lambda: hung.num_open)
        hung.is_hung = True
        for name in ("r0", "r1"):
            await heard.end(name)
            assert heard.ids(name) == expected(asks(name), 40)
        await until(lambda: not hung.num_open)  # it was let go there, too


async def test_a_cancel_reaches_it() -> None:
    stand_in = StandIn()
    stand_in.holds_after = 3
    async with remote(stand_in) as (engine, heard):
        engine.submit(asks())
        await until(lambda: len(heard.tokens("a")) == 3)
        engine.cancel("a")
        assert await heard.end("a") == Finished("a", FinishReason.CANCELLED, 6, 0, 3)
        await until(lambda: not stand_in.num_open)
        engine.cancel("a")  # and again, and one that never was
        engine.cancel("b")
    assert len(heard.ends("a")) == 1


async def test_without_any_replica_new_requests_are_refused_and_old_ones_wait() -> None:
    stand_in = StandIn()
    stand_in.dies_after = 10
    async with remote(stand_in) as (engine, heard):
        engine.submit(asks())
        await until(lambda: engine.status().state is EngineState.LOADING)
        with pytest.raises(EngineDead, match="No engine of --engine-url"):
            engine.submit(asks("b"))
        assert not heard.ends("a")
        stand_in.is_dead, stand_in.dies_after = False, None
        await heard.end("a")
        assert heard.ids("a") == expected(asks(), 40)
        assert engine.status().state is EngineState.READY


async def test_patience_ends() -> None:
    stand_in = StandIn()
    stand_in.dies_after = 10
    async with remote(stand_in, patience_s=0.05) as (engine, heard):
        engine.submit(asks())
        end = await heard.end("a")
    assert isinstance(end, Failed) and isinstance(end.error, EngineDead)
    assert heard.ids("a") == expected(asks(), 10)


async def test_what_no_replica_gets_through_fails_and_does_not_go_round_for_ever() -> None:
    stand_in = StandIn()
    stand_in.fails_with = {"message": "EngineCore encountered an issue.", "code": 500}
    async with remote(stand_in) as (engine, heard):
        engine.submit(asks())
        end = await heard.end("a")
    assert isinstance(end, Failed) and isinstance(end.error, InternalError)
    assert len(stand_in.bodies) == 3


async def test_what_it_refuses_is_refused_with_its_words() -> None:
    """vLLM says so within a stream that began with 200."""
    stand_in = StandIn()
    stand_in.fails_with = {"message": "Token id 99999 is out of vocabulary", "code": 400}
    async with remote(stand_in) as (engine, heard):
        engine.submit(asks())
        end = await heard.end("a")
    assert isinstance(end, Failed) and isinstance(end.error, InvalidRequest)
    assert "Token id 99999 is out of vocabulary" in end.error.message


class _AnyGrammar:
    param = "tools"

    def start(self) -> Any:
        raise AssertionError("it is not started")


@pytest.mark.parametrize(
    ("changes", "sampling", "error", "words"),
    [
        ({"grammar": _AnyGrammar()}, {}, InvalidRequest, "Leave tools out"),
        ({"prompt_logprobs": 1}, {}, InvalidRequest, "Leave prompt_logprobs out"),
        ({}, {"logprobs": 20}, InvalidRequest, "logprobs must be <= 19 .* Given: 20"),
        ({}, {"max_tokens": 600}, ContextLengthExceeded, "512"),
        ({"prompt_ids": (300,)}, {}, InvalidRequest, "prompt must hold token ids .* < 259"),
    ],
)
async def test_what_it_cannot_do_is_refused_at_once_by_name(
    changes: dict[str, Any], sampling: dict[str, Any], error: type[ChatError], words: str
) -> None:
    request = asks(**sampling)
    fields = {"prompt_ids": request.prompt_ids, "sampling": request.sampling} | changes
    async with remote(StandIn()) as (engine, heard):
        with pytest.raises(error, match=words):
            engine.submit(GenerationRequest("a", **fields))
        assert engine.status().num_waiting == 0


async def test_penalties_of_outputs_keep_an_answer_from_going_on_elsewhere() -> None:
    """There the outputs are prompt, which they do not count: it would be another answer."""
    dying, other = StandIn(), StandIn()
    dying.dies_after = 5
    async with remote(dying) as (engine, heard):
        engine.submit(asks(presence_penalty=0.5))
        await until(lambda: engine.status().state is EngineState.LOADING)
        dying.is_dead = False
        end = await heard.end("a")
    assert isinstance(end, Failed) and "presence_penalty" in end.error.message
    assert not other.bodies and len(heard.tokens("a")) == 5


async def test_what_was_begun_before_a_restart_goes_on() -> None:
    whole = expected(asks(), 40)
    stand_in = StandIn()
    async with remote(stand_in) as (engine, heard):
        request = asks()
        resumed = GenerationRequest("a", request.prompt_ids, request.sampling, whole[:15])
        engine.submit(resumed)
        await heard.end("a")
        engine.submit(GenerationRequest("b", request.prompt_ids, request.sampling, whole))
        assert await heard.end("b") == Finished("b", FinishReason.LENGTH, 6, 0, 40)
    assert heard.ids("a") == whole[15:]
    assert [token.position for token in heard.tokens("a")] == list(range(15, 40))
    assert len(stand_in.bodies) == 1  # the second was complete


async def test_seats_go_to_the_key_that_was_given_least() -> None:
    stand_in = StandIn()
    async with remote(stand_in, max_num_seqs=1, max_num_waiting=5) as (engine, heard):
        order = [("a0", "a"), ("a1", "a"), ("a2", "a"), ("b0", "b")]
        for name, scope in order:
            request = asks(name)
            engine.submit(
                GenerationRequest(name, request.prompt_ids, request.sampling, scope=scope)
            )
        assert (engine.status().num_running, engine.status().num_waiting) == (1, 3)
        for name, _ in order:
            await heard.end(name)
    ended = [event.request_id for event in heard.events if isinstance(event, Finished)]
    assert ended == ["a0", "b0", "a1", "a2"]


async def test_a_full_queue_refuses() -> None:
    stand_in = StandIn()
    stand_in.holds_after = 0
    async with remote(stand_in, max_num_seqs=1, max_num_waiting=1) as (engine, _):
        engine.submit(asks("r0"))
        engine.submit(asks("r1"))
        with pytest.raises(Overloaded, match="max_num_waiting"):
            engine.submit(asks("r2"))
        engine.cancel("r0")
        engine.submit(asks("r2"))


async def test_limits_are_those_of_the_shortest() -> None:
    long, short = StandIn(max_model_len=512), StandIn(max_model_len=64)
    async with remote(long, short) as (engine, _):
        assert engine.status().max_model_len == 64
        assert engine.status().vocab_size == VOCAB_SIZE
    async with remote(long, max_model_len=32) as (engine, _):
        assert engine.status().max_model_len == 32


async def test_another_model_or_key_is_never_asked(caplog: pytest.LogCaptureFixture) -> None:
    other, locked = StandIn(), StandIn()
    other.tokens_of_a_text = [1, 2, 3]
    locked.key = "sesame"
    caplog.set_level(logging.WARNING)
    async with serving(other.app) as one, serving(locked.app) as two:
        async with engine_at(one, two) as (engine, _):
            await until(lambda: len(caplog.messages) >= 2)
            assert engine.status().state is EngineState.LOADING
            with pytest.raises(EngineDead):
                engine.submit(asks())
    assert any("the-model has another tokenizer" in line for line in caplog.messages)
    assert any("wants another key: set --engine-api-key" in line for line in caplog.messages)
    async with remote(locked, key="sesame") as (engine, _):
        assert engine.status().state is EngineState.READY


async def test_stopping_fails_what_is_open() -> None:
    stand_in = StandIn()
    stand_in.holds_after = 2
    async with remote(stand_in) as (engine, heard):
        engine.submit(asks())
        await until(lambda: len(heard.tokens("a")) == 2)
        await engine.stop()
        (end,) = heard.ends("a")
        assert isinstance(end, Failed) and isinstance(end.error, EngineDead)
        with pytest.raises(EngineDead):
            engine.submit(asks("b"))


async def test_another_llamastream_is_an_engine_too() -> None:
    """By `/v1/completions`, with its own ids and limits."""
    engine = FakeEngine(lambda request: [*b"as it was", 257])
    async with running_service(engine) as service, running_server(service) as url:
        async with engine_at(url) as (remote_engine, heard):
            await remote_engine.ready()
            remote_engine.submit(asks(stop_token_ids=frozenset({257})))
            end = await heard.end("a")
    assert isinstance(end, Finished) and end.reason is FinishReason.STOP
    assert heard.ids("a") == [*b"as it was", 257]


# Recorded from `vllm serve --enable-scale-out` 0.32.0 and 0.32.0 on /v1/completions.
RECORDED = [
    (
        '{"request_id":"generate-tokens-9cd693a84812ebc0","usage":null,"output_mode":"tokens",'
        '"choices":[{"index":0,"finish_reason":"length","stop_reason":null,"token_ids":[100,494],'
        '"routed_experts":null,"sampling_mask":null,"weight_versions":[{"version":"default",'
        '"start":0,"end":3}],"logprobs":{"content":[{"token_id":100,"logprob":-2.5,"rank":1,'
        '"top_logprobs":[{"token_id":100,"logprob":-2.5,"rank":1},{"token_id":926,"logprob":-3.5,'
        '"rank":2}]},{"token_id":494,"logprob":-2.25,"rank":1,"top_logprobs":[{"token_id":494,'
        '"logprob":-2.25,"rank":1}]}]}}]}',
        [
            wire.Drawn(100, -2.5, ((100, -2.5), (926, -3.5))),
            wire.Drawn(494, -2.25, ((494, -2.25),)),
        ],
    ),
    (
        '{"request_id":"generate-tokens-8c8f","usage":null,"output_mode":"tokens","choices":['
        '{"index":0,"finish_reason":"stop","stop_reason":5,"token_ids":[5],"routed_experts":null,'
        '"sampling_mask":null,"weight_versions":null,"logprobs":null}]}',
        [wire.Drawn(5)],
    ),
    (
        '{"id":"cmpl-9ababd5f8e876d44","object":"text_completion","created":1796029789,"model":'
        '"/models/demo","choices":[{"index":0,"text":"ak","logprobs":{"text_offset":[12],'
        '"token_logprobs":[-2.25],"tokens":["token_id:494"],"top_logprobs":[{"token_id:494":-2.25,'
        '"token_id:395":-2.75}]},"finish_reason":"length","stop_reason":null,"prompt_token_ids":'
        'null,"token_ids":[494]}],"system_fingerprint":"vllm-0.32.0-c5cc5e6a"}',
        [wire.Drawn(494, -2.25, ((494, -2.25), (395, -2.75)))],
    ),
    (  # before 0.31 ids were written as texts on this path, too
        '{"choices":[{"index":0,"logprobs":{"content":[{"token":"token_id:7","logprob":-0.5,'
        '"bytes":null,"top_logprobs":[{"token":"token_id:7","logprob":-0.5}]}]},"token_ids":[7]}]}',
        [wire.Drawn(7, -0.5, ((7, -0.5),))],
    ),
    ('{"request_id":"x","choices":[],"usage":{"prompt_tokens":5}}', []),
]


@pytest.mark.parametrize(("event", "drawn"), RECORDED)
def test_the_recorded_wire_is_read(event: str, drawn: list[wire.Drawn]) -> None:
    assert wire.read(event) == drawn


def test_a_server_that_sends_no_ids_is_told_apart() -> None:
    with pytest.raises(wire.BadAnswer, match="token_ids"):
        wire.read('{"choices":[{"index":0,"text":"hello","logprobs":null,"finish_reason":null}]}')
