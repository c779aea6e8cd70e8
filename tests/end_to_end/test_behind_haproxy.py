"""Streams through HAProxy with the configuration in deploy/, while servers behind it end."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from llamastream.generation import Answers
from tests.api.sse import chat_body
from tests.doubles.disk import NotHere
from tests.doubles.engine import FakeEngine
from tests.doubles.haproxy import HAPROXY, Balancer, running_haproxy
from tests.doubles.jina_servers import grpc_port
from tests.doubles.server import running_server
from tests.doubles.service import make_service, says
from tests.doubles.waiting import LIMIT_S, until
from tests.soak.cluster import running_cluster
from tests.soak.following import Following
from tests.soak.reader import Doors, follow
from tests.soak.rounds import make_requests
from tests.soak.server import MODEL, Server

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is missing")
CHAT = "/v1/chat/completions"


class Front(NamedTuple):
    """HAProxy before three servers whose engines the test moves."""

    engines: list[FakeEngine]
    answers: list[Answers]
    http: httpx.AsyncClient
    balancer: Balancer


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    engines = [FakeEngine(says("abcdef")) for _ in range(3)]
    answers = [make_service(engine) for engine in engines]
    async with AsyncExitStack() as stack:
        ports = []
        for one in answers:
            url = await stack.enter_async_context(running_server(one))
            rpc = await stack.enter_async_context(grpc_port(one))
            ports.append((httpx.URL(url).port or 0, rpc))
        balancer = stack.enter_context(running_haproxy(tmp_path, ports))
        url = f"http://127.0.0.1:{balancer.port}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=LIMIT_S))
        await is_up(http)
        yield Front(engines, answers, http, balancer)


async def is_up(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                if (await http.get("/health")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.02)


async def test_each_token_passes_when_it_is_made_and_a_leaving_too(front: Front) -> None:
    for engine in front.engines:
        engine.manual = True
    async with front.http.stream("POST", CHAT, json=chat_body(stream=True)) as answer:
        lines = (line async for line in answer.aiter_lines() if "content" in line)
        for letter in "abcde":
            for engine in front.engines:
                engine.allow(1)
            seen = ""
            while not seen:
                chunk = json.loads((await anext(lines)).removeprefix("data: "))
                seen = chunk["choices"][0]["delta"]["content"]
            assert seen == letter
    await until(lambda: not any(engine.num_alive for engine in front.engines))


async def test_a_conversation_stays_at_one_server(front: Front) -> None:
    """Unknown ones, which each server refuses: it is asked where they go to."""
    bodies = [{"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}}]
    for body in bodies * 2:
        answer = await front.http.post("/v1/responses", json={"model": "demo", "input": "a"} | body)
        assert answer.status_code == 404 or "stor" in answer.text
    for _ in range(3):
        await front.http.post(CHAT, json=chat_body(), headers={"x-session-id": "of-a-client"})
    for _ in range(6):
        await front.http.post("/tokenize", json={"prompt": "a"})
    await until(lambda: len(front.balancer.served("/tokenize")) == 6)
    assert len(set(front.balancer.served("/v1/responses"))) == 1
    assert len(set(front.balancer.served(CHAT))) == 1
    assert len(set(front.balancer.served("/tokenize"))) == 3  # of no conversation


async def test_what_a_stopping_server_refuses_is_given_to_another(front: Front) -> None:
    session = {"x-session-id": "of-a-client"}
    await front.http.post(CHAT, json=chat_body(), headers=session)
    await until(lambda: front.balancer.served(CHAT))
    (name,) = front.balancer.served(CHAT)
    front.answers["abc".index(name)].drain()
    for _ in range(8):
        for headers in ({}, session):
            answer = await front.http.post(CHAT, json=chat_body(), headers=headers)
            assert answer.json()["choices"][0]["message"]["content"] == "abcdef"
    await until(lambda: len(front.balancer.served(CHAT)) == 17)
    assert name not in front.balancer.served(CHAT)[1:]


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing")
async def test_streams_outlive_a_server_that_is_killed_and_one_that_stops(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        try:
            cluster = await stack.enter_async_context(running_cluster(tmp_path))
        except NotHere as reason:
            pytest.skip(str(reason))
        ports = [(server.port, server.grpc_port) for server in cluster.servers]
        balancer = stack.enter_context(running_haproxy(tmp_path, ports))
        doors = await stack.enter_async_context(Doors(balancer.port, balancer.port))
        await is_up(doors.client)
        bodies = [body | {"max_output_tokens": 120} for body in make_requests(random.Random(0))[:9]]
        wholes = [Following(body | {"store": False}, "") for body in bodies]
        await asyncio.gather(*(follow(one, doors) for one in wholes))
        for end in (signal.SIGKILL, signal.SIGTERM):
            readers = await _read_while_one_ends(bodies, doors, cluster.servers, end)
            assert [a.difference(b) for a, b in zip(readers, wholes, strict=True)] == [None] * 9
            if end is signal.SIGTERM:  # its readers stay to the end
                assert {reader.num_connections for reader in readers} == {1}


async def _read_while_one_ends(
    bodies: list[dict[str, object]], doors: Doors, servers: list[Server], end: signal.Signals
) -> list[Following]:
    """The one with most to do ends in the middle of stored streams, and is started again."""
    readers = [Following(body, f"{end}-{number}") for number, body in enumerate(bodies)]
    transports = ("sse", "websocket", "grpc")
    reading = asyncio.gather(
        *(follow(one, doors, transports[n % 3]) for n, one in enumerate(readers))  # type: ignore[arg-type]
    )
    await until(lambda: all(len(one.token_ids or one.documents or ()) > 20 for one in readers))
    server = servers[0]
    await server.stop(end)
    await server.start()
    await reading
    return readers
