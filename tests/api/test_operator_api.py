"""What operators ask: health, metrics, version, models."""

from pathlib import Path

import httpx
import pytest

from llamastream import __version__
from llamastream.types import EngineState
from tests.api.conftest import Connect
from tests.api.schemas import needs_schemas, validate
from tests.api.sse import chat_body, stream_chat
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.doubles.store import FailingStore


async def test_metrics_are_in_prometheus_format(connect: Connect) -> None:
    client = await connect(FakeEngine(says("abc")))
    await stream_chat(client)
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'llamastream_requests_total{outcome="stop"} 1.0' in response.text
    assert "llamastream_output_tokens_total 4.0" in response.text


async def test_health_tells_the_load(connect: Connect) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    client = await connect(engine)
    async with client.stream("POST", "/v1/chat/completions", json=BODY):
        health = (await client.get("/health")).json()
    assert health == {"status": "ready", "running": 1, "waiting": 0}


async def test_health_tells_of_a_failing_database(tmp_path: Path) -> None:
    service = make_service(FakeEngine(says("abc")))
    responses = make_responses(service, tmp_path)
    async with (
        running_server(service, None, responses) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert (await client.get("/health")).json()["store"] == "ready"
        assert isinstance(responses._store, FailingStore)
        responses._store.fail()
        health = await client.get("/health")
        assert (health.status_code, health.json()["store"]) == (200, "unavailable")


async def test_server_whose_database_was_taken_away_is_not_ready(tmp_path: Path) -> None:
    service = make_service(FakeEngine(says("abc")))
    responses = make_responses(service, tmp_path)
    async with (
        running_server(service, None, responses) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        (tmp_path / "llamastream.db").rename(tmp_path / "away")
        health = await client.get("/health")
        assert health.status_code == 503
        assert (health.json()["status"], health.json()["store"]) == ("store_lost", "unavailable")
        body = {"model": service.model_name, "input": "hi"}
        answer = await client.post("/v1/responses", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
        answer = await client.post("/v1/responses", json=body | {"store": False})
        assert answer.status_code == 200
        (tmp_path / "away").rename(tmp_path / "llamastream.db")
        assert (await client.get("/health")).status_code == 200


async def test_version(connect: Connect) -> None:
    client = await connect(FakeEngine(says("abc")))
    assert (await client.get("/version")).json() == {"version": __version__}


@needs_schemas
async def test_models_are_as_openai_publishes_them(connect: Connect) -> None:
    engine = FakeEngine(says("abc"))
    client = await connect(engine)
    validate("ListModelsResponse", (await client.get("/v1/models")).json())
    model = (await client.get("/v1/models/demo")).json()
    validate("Model", model)
    assert model["max_model_len"] == 4096
    assert model["sampling"]["repetition_penalty"] == 1.0
    engine.state, engine.max_model_len = EngineState.LOADING, 0
    assert (await client.get("/v1/models/demo")).json()["max_model_len"] is None


BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def test_tokens_of_stored_answers_are_counted_too(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("abc")))
    await client.post("/v1/responses", json={"model": "demo", "input": "hi"})
    assert "llamastream_output_tokens_total 4.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_what_a_full_queue_refuses_is_counted(connect_stored: Connect, path: str) -> None:
    client = await connect_stored(FakeEngine(says("abc"), max_num_seqs=0, max_num_waiting=0))
    body = chat_body() if "chat" in path else {"model": "demo", "input": "hi"}
    assert (await client.post(path, json=body)).status_code == 429
    metrics = (await client.get("/metrics")).text
    assert 'llamastream_requests_total{outcome="overloaded"} 1.0' in metrics
