"""A server that is told to stop lets streams finish, answers meanwhile, and leaves the rest."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.doubles.waiting import until

from llamastream.cli.stopping import Stopping
from llamastream.generation import StoredAnswers

BODY = {"model": "demo", "input": "hi", "background": True}


@asynccontextmanager
async def serving(
    engine: FakeEngine, folder: Path
) -> AsyncIterator[tuple[httpx.AsyncClient, StoredAnswers]]:
    service = make_service(engine)
    responses = make_responses(service, folder)
    async with running_server(service, None, responses) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            yield client, responses


async def test_open_streams_finish_and_new_ones_are_refused(tmp_path: Path) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with serving(engine, tmp_path) as (client, responses):
        id = (await client.post("/v1/responses", json=BODY)).json()["id"]
        stopping = asyncio.create_task(
            Stopping(responses.answers, responses, 60).run(is_patient=True)
        )
        await until(lambda: responses.answers.is_draining)
        refused = await client.post("/v1/responses", json=BODY)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "stopping")
        engine.allow(100)
        await stopping
        assert (await client.get(f"/v1/responses/{id}")).json()["status"] == "completed"


async def test_what_takes_too_long_is_left_to_the_next_start(tmp_path: Path) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with serving(engine, tmp_path) as (client, responses):
        id = (await client.post("/v1/responses", json=BODY)).json()["id"]
        path = f"/v1/responses/{id}?stream=true"
        async with client.stream("GET", path) as answer:
            await Stopping(responses.answers, responses, 0.01).run(is_patient=True)
            text = (await answer.aread()).decode()
        assert "retry: 1000\nevent: error\n" in text
        assert '"code":"response_interrupted"' in text
    async with serving(FakeEngine(says("abc")), tmp_path) as (client, _):
        text = (await client.get(path)).text
        assert '"status":"completed"' in text


async def test_a_second_signal_ends_the_waiting(tmp_path: Path) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with serving(engine, tmp_path) as (client, responses):
        await client.post("/v1/responses", json=BODY)
        stopping = Stopping(responses.answers, responses, 3600)
        task = asyncio.create_task(stopping.run(is_patient=True))
        await until(lambda: responses.answers.is_draining)
        stopping.hurry()
        await asyncio.wait_for(task, 10)
