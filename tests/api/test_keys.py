"""API keys on the wire: read again when their file changes, limited, and named in logs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import openai
import pytest

from llamastream.api.generate import REFUSED_AFTER_S
from llamastream.api.http.rate_limits import duration
from llamastream.config import ServeSettings
from llamastream.keys import digest_of
from tests.api.conftest import Connect, openai_client
from tests.api.sse import chat_body
from tests.api.test_responses_socket import hear, open_socket, say
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says
from tests.doubles.waiting import until

Serve = Callable[..., Awaitable[httpx.AsyncClient]]


def entry(name: str, *lines: str) -> str:
    return "\n".join(
        ["", "[[keys]]", f'name = "{name}"', f'sha256 = "{digest_of(name).hex()}"', *lines, ""]
    )


def limited(name: str, **limits: int) -> str:
    return entry(name, "[keys.limits]", *(f"{limit} = {value}" for limit, value in limits.items()))


def as_key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


class KeysFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.settings = ServeSettings(api_keys_file=path)

    def write(self, *entries: str) -> None:
        self._path.write_text("# keys\n" + "".join(entries))


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.toml")


async def test_a_key_is_let_in_and_refused_as_the_file_says_now(
    file: KeysFile, connect: Connect
) -> None:
    file.write(entry("alice"))
    client = await connect(FakeEngine(says("Hi")), file.settings)

    async def status(name: str) -> int:
        return (await client.get("/v1/models", headers=as_key(name))).status_code

    assert [await status("alice"), await status("bob")] == [200, 401]
    file.write(entry("bob"))
    assert [await status("alice"), await status("bob")] == [401, 200]
    file.write("[[keys]\n")
    assert [await status("alice"), await status("bob")] == [401, 200]
    assert (await client.get("/v1/models")).status_code == 401


async def test_what_a_revoked_key_began_goes_on_to_its_end(
    file: KeysFile, connect_stored: Connect
) -> None:
    file.write(entry("alice"))
    engine = FakeEngine(says("Hi there"), manual=True)
    client = await connect_stored(engine, file.settings)
    streaming = asyncio.create_task(
        client.post("/v1/chat/completions", json=chat_body(stream=True), headers=as_key("alice"))
    )
    await until(lambda: engine.num_alive)
    file.write(entry("bob"))
    assert (await client.get("/v1/models", headers=as_key("alice"))).status_code == 401
    engine.allow(100)
    assert "[DONE]" in (await streaming).text


async def test_a_socket_of_a_revoked_key_takes_no_more_messages(
    file: KeysFile, connect_stored: Connect
) -> None:
    file.write(entry("alice"))
    server = await connect_stored(FakeEngine(says("Hi")), file.settings)
    async with open_socket(server, additional_headers=as_key("alice")) as socket:
        await say(socket, "response.create", model="demo", input="Hello")
        assert (await hear(socket))[-1]["type"] == "response.completed"
        file.write(entry("bob"))
        await say(socket, "response.create", model="demo", input="Hello")
        assert (await hear(socket))[-1]["error"]["code"] == "invalid_api_key"


async def test_a_key_of_another_scope_does_not_see_what_is_stored_and_a_successor_does(
    file: KeysFile, connect_stored: Connect
) -> None:
    alice = f'scope = "{digest_of("alice").hex()[:16]}"'
    file.write(entry("alice"), entry("alice-2", alice), entry("bob"))
    client = await connect_stored(FakeEngine(says("Hi")), file.settings)
    body = {"model": "demo", "input": "Hello"}
    made = await client.post("/v1/responses", json=body, headers=as_key("alice"))
    path = f"/v1/responses/{made.json()['id']}"
    found = [
        (await client.get(path, headers=as_key(name))).status_code
        for name in ("alice", "alice-2", "bob")
    ]
    assert found == [200, 200, 404]


async def test_metrics_are_for_an_admin(file: KeysFile, connect: Connect) -> None:
    file.write(entry("alice"), entry("root", "admin = true"))
    client = await connect(FakeEngine(says("Hi")), file.settings)
    await client.post("/v1/chat/completions", json=chat_body(), headers=as_key("alice"))
    refused = await client.get("/metrics", headers=as_key("alice"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    metrics = (await client.get("/metrics", headers=as_key("root"))).text
    assert 'llamastream_key_output_tokens_total{key="alice"} 3.0' in metrics


@pytest.mark.parametrize(("keys", "status"), [("alice", 200), ("alice,bob", 403), (None, 200)])
async def test_of_several_keys_of_the_command_line_none_reads_the_metrics(
    connect: Connect, keys: str | None, status: int
) -> None:
    client = await connect(FakeEngine(says("Hi")), ServeSettings(api_key=keys))
    for name in (keys or "alice").split(","):
        assert (await client.get("/metrics", headers=as_key(name))).status_code == status


async def test_logs_and_metrics_name_the_key_and_never_show_it(
    file: KeysFile, connect_stored: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "ls-very-secret"
    file.write(
        entry("root", "admin = true"),
        f'[[keys]]\nname = "alice"\nsha256 = "{digest_of(secret).hex()}"\n',
    )
    client = await connect_stored(FakeEngine(says("Hi")), file.settings)
    with caplog.at_level(logging.DEBUG):
        for path, body in {
            "/v1/chat/completions": chat_body(),
            "/v1/responses": {"model": "demo", "input": "Hello"},
        }.items():
            await client.post(path, json=body, headers=as_key(secret))
        await client.get("/v1/models", headers=as_key(secret + "x"))
    lines = [record.getMessage() for record in caplog.records]
    assert sum("key=alice" in line for line in lines) == 2
    metrics = (await client.get("/metrics", headers=as_key("root"))).text
    for text in (*lines, metrics):
        assert secret not in text and digest_of(secret).hex()[:16] not in text


async def test_over_a_limit_is_429_with_openais_headers(file: KeysFile, connect: Connect) -> None:
    file.write(limited("alice", max_requests=1, max_tokens_per_minute=1000), entry("bob"))
    engine = FakeEngine(says("Hi"), manual=True)
    client = await connect(engine, file.settings)
    first = asyncio.create_task(
        client.post("/v1/chat/completions", json=chat_body(stream=True), headers=as_key("alice"))
    )
    await until(lambda: engine.num_alive == 1)
    refused = await client.post("/v1/chat/completions", json=chat_body(), headers=as_key("alice"))
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "max_requests" in error["message"]
    headers = refused.headers
    assert headers["retry-after"] == "1"
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-limit-tokens"] == "1000"
    assert 900 < int(headers["x-ratelimit-remaining-tokens"]) < 1000
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    engine.allow(100)
    assert (await first).headers["x-ratelimit-limit-requests"] == "1"
    other = await client.get("/v1/models", headers=as_key("bob"))
    assert not any(name.startswith("x-ratelimit") for name in other.headers)
    after = await client.get("/v1/models", headers=as_key("alice"))
    assert after.headers["x-ratelimit-remaining-requests"] == "1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat_body()),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/responses", {"input": "a", "store": False}),
    ],
)
async def test_who_asks_again_at_once_is_refused_a_tenth_of_a_second_later(
    file: KeysFile, connect_stored: Connect, path: str, body: dict[str, object]
) -> None:
    file.write(limited("alice", max_waiting=0))
    client = await connect_stored(FakeEngine(says("Hi")), file.settings)
    began = time.monotonic()
    for number in (1, 2):
        refused = await client.post(path, json={"model": "demo"} | body, headers=as_key("alice"))
        assert refused.status_code == 429
        # At least: however busy the machine is, it comes no earlier.
        assert time.monotonic() - began >= number * REFUSED_AFTER_S


async def test_choices_count_each_for_itself(file: KeysFile, connect: Connect) -> None:
    file.write(limited("alice", max_requests=3))
    client = await connect(FakeEngine(says("Hi")), file.settings)
    statuses = [
        (await client.post("/v1/completions", json=body, headers=as_key("alice"))).status_code
        for body in ({"model": "demo", "prompt": "a", "n": n} for n in (3, 4, 3))
    ]
    assert statuses == [200, 429, 200]


async def test_the_official_client_raises_its_rate_limit_error(
    file: KeysFile, connect: Connect
) -> None:
    file.write(limited("alice", max_tokens_per_minute=0))
    server = await connect(FakeEngine(says("Hi")), file.settings)
    async with openai_client(server, "alice") as client:
        with pytest.raises(openai.RateLimitError, match="max_tokens_per_minute"):
            await client.completions.create(model="demo", prompt="a")


async def test_a_socket_hears_of_a_limit(file: KeysFile, connect_stored: Connect) -> None:
    file.write(limited("alice", max_waiting=0))
    server = await connect_stored(FakeEngine(says("Hi")), file.settings)
    async with open_socket(server, additional_headers=as_key("alice")) as socket:
        await say(socket, "response.create", model="demo", input="Hello", stream_id="s")
        event = (await hear(socket))[-1]
    assert (event["status"], event["error"]["code"]) == (429, "rate_limit_exceeded")
    assert event["stream_id"] == "s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (1, "1s"), (0.25, "0.2s"), (59.96, "1m0s"), (90.5, "1m30.5s")]
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def test_what_a_key_may_store_is_limited_and_a_second_try_finds_the_first(
    file: KeysFile, connect_stored: Connect
) -> None:
    file.write(limited("alice", max_stored_responses=2), entry("bob"))
    client = await connect_stored(FakeEngine(says("Hi")), file.settings)
    body = {"model": "demo", "input": "Hello"}

    async def make(name: str, key: str | None = None, **fields: object) -> httpx.Response:
        headers = as_key(name) | ({} if key is None else {"Idempotency-Key": key})
        return await client.post("/v1/responses", json=body | fields, headers=headers)

    first, second = await make("alice", "k"), await make("alice")
    assert (first.status_code, second.status_code) == (200, 200)
    refused = await make("alice")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "max_stored_responses of this API key is 2" in refused.json()["error"]["message"]
    assert (await make("alice", "k")).json()["id"] == first.json()["id"]
    assert (await make("alice", store=False)).status_code == 200
    assert (await make("bob")).status_code == 200
    path = f"/v1/responses/{second.json()['id']}"
    assert (await client.delete(path, headers=as_key("alice"))).status_code == 200
    assert (await make("alice")).status_code == 200


async def test_conversations_count_towards_what_a_key_may_store(
    file: KeysFile, connect_stored: Connect
) -> None:
    file.write(limited("alice", max_stored_bytes=3000))
    client = await connect_stored(FakeEngine(says("Hi")), file.settings)
    items = [{"role": "user", "content": "x" * 2000}]

    async def post(path: str) -> httpx.Response:
        return await client.post(path, json={"items": items}, headers=as_key("alice"))

    made = await post("/v1/conversations")
    path = f"/v1/conversations/{made.json()['id']}/items"
    assert [(await post(path)).status_code for _ in range(2)] == [200, 429]
    assert (await post("/v1/conversations")).status_code == 429
