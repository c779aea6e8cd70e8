"""A server keeps what it computed for stored answers: found after kill -9, gone when deleted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.soak.server import MODEL, MODEL_NAME, Server

pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="../shared/data/stories260K is missing")

Json = dict[str, Any]


class Client:
    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        self._client = client

    async def ask(self, method: str, path: str, body: Json | None = None) -> Json:
        reply = await self._client.request(method, self.server.url + path, json=body)
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    async def respond(self, text: str, **options: Any) -> Json:
        body = {"model": MODEL_NAME, "input": text, "temperature": 0, "max_output_tokens": 12}
        return await self.ask("POST", "/v1/responses", body | options)

    async def conversation(self) -> str:
        return str((await self.ask("POST", "/v1/conversations", {}))["id"])

    async def written(self) -> None:
        """Return when nothing waits to be written: a deletion is behind it."""
        await self.ask("DELETE", f"/v1/conversations/{await self.conversation()}")

    def blocks(self) -> list[Path]:
        return [path for path in self.server.folder.rglob("kv/*/*/*") if len(path.name) == 64]


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Client]:
    # Steps as long as a larger model's: what ends before it is confirmed is not kept.
    server = Server(folder, options, module="tests.soak.paced")
    async with server, httpx.AsyncClient(timeout=60) as client:
        yield Client(server, client)


def num_cached(answer: Json) -> int:
    return int(answer["usage"]["input_tokens_details"]["cached_tokens"])


def texts(answers: list[Json]) -> list[str]:
    return [answer["output"][0]["content"][0]["text"] for answer in answers]


CHAT = {
    "model": MODEL_NAME,
    "temperature": 0,
    "max_tokens": 12,
    "messages": [{"role": "user", "content": "Once upon a time there was a dog. " * 4}],
}


async def turns(client: Client, *, restart: bool) -> list[Json]:
    """A conversation, answers that continue each other, and chats; some before the restart."""
    conversation, previous, answers = await client.conversation(), None, []
    for turn in range(2):
        said = f"Tell me of the day when Lily, Tom and their dog went to the park, part {turn}."
        answers.append(await client.respond(said, conversation=conversation))
        answers.append(await client.respond(said, previous_response_id=previous))
        previous = answers[-1]["id"]
        if turn == 0:
            await client.ask("POST", "/v1/chat/completions", CHAT | {"store": True})
            await client.written()
            if restart:
                await client.server.stop()
                await client.server.start()
    return answers


async def test_after_kill_9_the_next_turn_finds_its_past(tmp_path: Path) -> None:
    async with serving(tmp_path, "--kv-disk-gib", "0") as client:
        expected = await turns(client, restart=False)
        assert client.blocks() == []
    async with serving(tmp_path) as client:
        answers = await turns(client, restart=True)
        chat = await client.ask("POST", "/v1/chat/completions", CHAT)
        message = await client.ask("POST", "/v1/messages", CHAT)
    assert texts(answers) == texts(expected)
    # As many as without a restart, in whole blocks of 32 tokens.
    assert [num_cached(a) for a in answers[2:]] == [num_cached(a) for a in expected[2:]]
    assert all(num_cached(answer) >= 32 for answer in answers[2:])
    assert chat["usage"]["prompt_tokens_details"]["cached_tokens"] >= 32
    assert message["usage"]["cache_read_input_tokens"] >= 32


async def test_what_is_deleted_leaves_nothing_on_disk(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        said = "Tell me of the day when Lily, Tom and their dog went to the park."
        await client.respond(said, store=False)
        await client.respond(said, prompt_cache_retention="in_memory")
        await client.written()
        assert client.blocks() == []

        conversation = await client.conversation()
        inside = await client.respond(said, conversation=conversation)
        first = await client.respond(said)
        second = await client.respond(said, previous_response_id=first["id"])
        await client.written()
        of = {path.parent.name for path in client.blocks()}
        assert of == {conversation, first["id"]}
        await client.ask("DELETE", f"/v1/responses/{second['id']}")
        assert {path.parent.name for path in client.blocks()} == {conversation}
        item = inside["output"][0]["id"]
        await client.ask("DELETE", f"/v1/conversations/{conversation}/items/{item}")
        assert client.blocks() == []

        conversation = await client.conversation()
        await client.respond(said, conversation=conversation, prompt_cache_retention="24h")
        await client.written()
        assert {path.parent.name for path in client.blocks()} == {f"{conversation}.24h"}
        await client.ask("DELETE", f"/v1/conversations/{conversation}")
        assert client.blocks() == []
