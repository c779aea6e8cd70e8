"""Stored answers of every kind, drawn again: equal, or different where they are."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from llamastream.config import ServeSettings
from llamastream.engine.async_engine import AsyncEngine
from llamastream.generation import StoredAnswers, StorePolicy
from llamastream.generation.receipts import digest_of
from llamastream.store.damage import checksum
from llamastream.store.packing import pack_ids, unpack_ids
from tests.api.conftest import Connect, openai_client
from tests.api.test_keys import KeysFile, as_key, file, limited
from tests.doubles.answer_kinds import DRAWN, OF_CHATS, OF_RESPONSES, chat_body, response_body
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.doubles.tiny_engine import tiny_engine
from tests.doubles.waiting import LIMIT_S, until

__all__ = ["file"]

RESPONSES, CHATS = "/v1/responses", "/v1/chat/completions"


@asynccontextmanager
async def serving(
    folder: Path, engine: AsyncEngine | FakeEngine, model_id: str = "m-int8-2"
) -> AsyncIterator[tuple[httpx.AsyncClient, StoredAnswers]]:
    """One life of a server on the database in `folder`."""
    answers = make_service(engine, model_id)  # type: ignore[arg-type]
    stored = make_responses(answers, folder, StorePolicy())
    async with running_server(answers, stored=stored) as url:
        await answers.dispatcher.engine.ready()
        async with httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as client:
            yield client, stored


def first_engine() -> AsyncEngine:
    return tiny_engine(dtype="int8")


def other_engine(**options: Any) -> AsyncEngine:
    """It computes the same in another way."""
    return tiny_engine("portable", "int8", speculation="off", threads=2, **options)


async def ask(client: httpx.AsyncClient, path: str = RESPONSES, **fields: Any) -> dict[str, Any]:
    body = response_body(**fields) if path == RESPONSES else chat_body(**fields)
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def verify(client: httpx.AsyncClient, id: str, path: str = RESPONSES) -> dict[str, Any]:
    answer = await client.post(f"{path}/{id}/verify")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["is_equal"] is (found["difference"] is None)
    return found


async def refusal(client: httpx.AsyncClient, id: str) -> tuple[int, str]:
    answer = await client.post(f"{RESPONSES}/{id}/verify")
    return answer.status_code, answer.json()["error"]["message"]


def database(folder: Path) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(folder / "llamastream.db", isolation_level=None))


def change_ids(folder: Path, id: str, change: Callable[[list[int]], list[int]]) -> None:
    """What somebody does who knows how the database keeps its checksums."""
    with database(folder) as db:
        select = "SELECT token_ids, logprobs FROM responses WHERE id = ?"
        (ids, logprobs) = db.execute(select, (id,)).fetchone()
        changed = pack_ids(change(unpack_ids(ids)))
        db.execute(
            "UPDATE responses SET token_ids = ?, tokens_checksum = ? WHERE id = ?",
            (changed, checksum(changed, logprobs), id),
        )


async def test_every_kind_is_equal_on_other_kernels(tmp_path: Path) -> None:
    sizes: dict[tuple[str, str], int] = {}
    async with serving(tmp_path, first_engine()) as (client, _):
        for fields in OF_RESPONSES.values():
            made = await ask(client, **fields)
            sizes[RESPONSES, made["id"]] = made["usage"]["output_tokens"]
        for fields in OF_CHATS.values():
            made = await ask(client, CHATS, **fields)
            sizes[CHATS, made["id"]] = made["usage"]["completion_tokens"]
    async with serving(tmp_path, other_engine()) as (client, _):
        found = await asyncio.gather(*(verify(client, id, path) for path, id in sizes))
        for size, one in zip(sizes.values(), found, strict=True):
            assert one["is_equal"] and one["num_equal_tokens"] == size > 0, one


async def test_every_turn_of_a_conversation_is_equal(tmp_path: Path) -> None:
    async with serving(tmp_path, first_engine()) as (client, _):
        conversation = (await client.post("/v1/conversations", json={})).json()["id"]
        ids = [(await ask(client, conversation=conversation, **DRAWN))["id"] for _ in range(3)]
        for _ in range(3):
            ids.append((await ask(client, previous_response_id=ids[-1], **DRAWN))["id"])
        assert all([(await verify(client, id))["is_equal"] for id in ids])


async def test_what_another_server_went_on_with_is_equal(tmp_path: Path) -> None:
    asked = {"model": "demo", "input": "hi", "background": True, "max_output_tokens": 900}
    asked |= DRAWN | {"ignore_eos": True}
    async with serving(tmp_path, first_engine()) as (client, stored):
        id = (await client.post(RESPONSES, json=asked)).json()["id"]
        generation = await stored.find(id, scope="")
        await until(lambda: generation.num_public > 20)
    assert generation.end is None
    async with serving(tmp_path, other_engine()) as (client, stored):
        await (await stored.find(id, scope="")).over()
        found = await verify(client, id)
        assert found["is_equal"] and found["num_equal_tokens"] == 900


async def test_what_a_cancelled_answer_had_is_equal(tmp_path: Path) -> None:
    async with serving(tmp_path, tiny_engine(dtype="int8")) as (client, stored):
        asked = {"model": "demo", "input": "hi", "background": True, "ignore_eos": True}
        id = (await client.post(RESPONSES, json=asked)).json()["id"]
        generation = await stored.find(id, scope="")
        await until(lambda: generation.num_public > 5)
        ended = (await client.post(f"{RESPONSES}/{id}/cancel")).json()
        assert ended["status"] == "cancelled"
        found = await verify(client, id)
        assert found["is_equal"] and found["num_equal_tokens"] == ended["usage"]["output_tokens"]


async def test_one_changed_id_is_found_where_it_is(tmp_path: Path) -> None:
    rng = Random(0)
    async with serving(tmp_path, first_engine()) as (client, _):
        for fields in (
            DRAWN,
            {"temperature": 0.0},
            OF_RESPONSES["pattern"],
            OF_RESPONSES["penalties"],
        ):
            id = (await ask(client, **fields))["id"]
            ids = (await verify(client, id))["num_equal_tokens"]
            for place in {0, ids - 1, *(rng.randrange(ids) for _ in range(12))}:
                kept: list[int] = []

                def change(ids: list[int], kept: list[int] = kept, place: int = place) -> list[int]:
                    kept[:] = ids
                    other = rng.choice([i for i in (*range(259), 2**32 - 1) if i != ids[place]])
                    return [*ids[:place], other, *ids[place + 1 :]]

                change_ids(tmp_path, id, change)
                found = await verify(client, id)
                assert found["num_equal_tokens"] == place
                difference = found["difference"]
                assert (difference["choice"], difference["position"]) == (0, place)
                assert difference["drawn"] == kept[place] != difference["recorded"]
                change_ids(tmp_path, id, lambda _, kept=kept: kept)  # type: ignore[misc]
            assert (await verify(client, id))["is_equal"]


async def test_an_answer_that_was_cut_or_added_to_is_found(tmp_path: Path) -> None:
    async with serving(tmp_path, first_engine()) as (client, _):
        for fields in (
            DRAWN,
            OF_RESPONSES["pattern"],
            {"temperature": 0.0, "max_output_tokens": 9},
        ):
            id = (await ask(client, **fields))["id"]
            size = (await verify(client, id))["num_equal_tokens"]
            change_ids(tmp_path, id, lambda ids: [*ids, 65])
            longer = (await verify(client, id))["difference"]
            assert longer == {"choice": 0, "position": size, "recorded": 65, "drawn": None}
            change_ids(tmp_path, id, lambda ids: ids[:-3])
            shorter = (await verify(client, id))["difference"]
            assert (shorter["position"], shorter["recorded"]) == (size - 2, None)
            assert shorter["drawn"] is not None


def change_row(folder: Path, id: str, **columns: object) -> None:
    """Without the checksum that would tell."""
    with database(folder) as db:
        for name, value in columns.items():
            db.execute(
                f"UPDATE responses SET {name} = ?, checksum = NULL, start_checksum = NULL "
                "WHERE id = ?",
                (value, id),
            )


async def test_another_prompt_is_refused_and_another_seed_found(tmp_path: Path) -> None:
    async with serving(tmp_path, first_engine()) as (client, _):
        id = (await ask(client, **DRAWN))["id"]
        with database(tmp_path) as db:
            select = "SELECT prompt_ids, sampling FROM responses WHERE id = ?"
            prompt, sampling = db.execute(select, (id,)).fetchone()
        change_row(tmp_path, id, prompt_ids=pack_ids([5, *unpack_ids(prompt)[1:]]))
        assert await refusal(client, id) == (
            422,
            f"Response '{id}' has another prompt than its receipt: what the database holds was "
            "changed.",
        )
        other = json.dumps(json.loads(sampling) | {"seed": 4})
        change_row(tmp_path, id, prompt_ids=prompt, sampling=other)
        assert (await verify(client, id))["difference"]["position"] < 3


async def test_other_weights_under_the_same_name_are_found(tmp_path: Path) -> None:
    """The digest of weights is of samples: what it does not see, the draws do."""
    async with serving(tmp_path, first_engine()) as (client, _):
        id = (await ask(client, **DRAWN))["id"]
    async with serving(tmp_path, tiny_engine(dtype="int8", seed=1)) as (client, _):
        assert not (await verify(client, id))["is_equal"]


@pytest.mark.parametrize(
    ("model_id", "words"),
    [
        ("n-int8-2", "was drawn with other weights: m, here n"),
        ("m-int4-2", "other precision: int8, here int4"),
        ("m-int8-gpu", "other arithmetic: 2, here gpu"),
        ("m-vllm", "other precision: int8, here vllm"),
    ],
)
async def test_who_draws_otherwise_is_told_so_by_name(
    tmp_path: Path, model_id: str, words: str
) -> None:
    async with serving(tmp_path, FakeEngine(says("abc"))) as (client, _):
        id = (await ask(client))["id"]
    engine = FakeEngine(says("abc"))
    async with serving(tmp_path, engine, model_id) as (client, _):
        status, message = await refusal(client, id)
        assert status == 422 and words in message
        assert (await client.get(f"{RESPONSES}/{id}/receipt")).json()["weights"] == "m"
    assert not engine.submitted


async def test_answers_of_an_engine_elsewhere_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeEngine(says("abc")), "t-vllm") as (client, _):
        id = (await ask(client))["id"]
        status, message = await refusal(client, id)
        assert status == 422 and "--engine-url" in message


async def test_what_cannot_be_verified_says_why(tmp_path: Path) -> None:
    engine = FakeEngine(says("abc"), manual=True)
    async with serving(tmp_path, engine) as (client, stored):
        asked = {"model": "demo", "input": "hi", "background": True}
        id = (await client.post(RESPONSES, json=asked)).json()["id"]
        status, message = await refusal(client, id)
        assert status == 422 and message.endswith("is in progress: verify it when it has ended.")
        assert (await refusal(client, "resp_none"))[0] == 404
        engine.allow(100)
        await (await stored.find(id, scope="")).over()
        change_row(tmp_path, id, prompt_ids=None)
        status, message = await refusal(client, id)
        assert status == 422 and "is kept without its prompt" in message
        receipt = (await client.get(f"{RESPONSES}/{id}/receipt")).json()
        assert receipt["prompt"]["num_tokens"] is None and len(receipt["prompt"]["sha256"]) == 64


async def test_a_receipt_tells_all_that_an_answer_depends_on(tmp_path: Path) -> None:
    async with serving(tmp_path, first_engine()) as (client, stored):
        made = await ask(client, **OF_RESPONSES["schema"] | {"top_p": 0.9})
        receipt = (await client.get(f"{RESPONSES}/{made['id']}/receipt")).json()
        recorded = await stored._store.prompts.recorded(made["id"], scope="")
        assert recorded.prompt_ids is not None
        assert receipt["status"] == made["status"] and receipt["object"] == "receipt"
        assert (receipt["weights"], receipt["precision"], receipt["arithmetic"]) == (
            *("m", "int8", "2"),
        )
        assert receipt["prompt"] == {
            "num_tokens": made["usage"]["input_tokens"],
            "sha256": digest_of(recorded.prompt_ids),
        }
        assert receipt["sampling"]["seed"] == 3 and receipt["sampling"]["top_p"] == 0.9
        assert receipt["grammar"]["kind"] == "json_schema"
        assert receipt["choices"] == [
            {
                "index": 0,
                "num_tokens": made["usage"]["output_tokens"],
                "sha256": digest_of(recorded.token_ids),
            }
        ]
        assert (await verify(client, made["id"]))["receipt"] == receipt


async def test_of_another_key_there_is_nothing_to_verify(connect_stored: Connect) -> None:
    server = await connect_stored(FakeEngine(says("abc")), ServeSettings(api_key="one,two"))
    one, two = openai_client(server, "one"), openai_client(server, "two")
    id = (await one.responses.create(model="demo", input="hi")).id
    for path in ("verify", "receipt"):
        send = one.post if path == "verify" else one.get
        assert (await send(f"/responses/{id}/{path}", cast_to=httpx.Response)).status_code == 200
        statuses = [
            (await server.request(method, f"{RESPONSES}/{id}/{path}", headers=headers)).status_code
            for method in (["POST"] if path == "verify" else ["GET"])
            for headers in ({}, {"Authorization": "Bearer two"})
        ]
        assert statuses == [401, 404]
    await one.close()
    await two.close()


async def test_a_verification_counts_in_the_limits_of_its_key_and_ends_with_its_client(
    file: KeysFile, connect_stored: Connect
) -> None:
    file.write(limited("alice", max_requests=1))
    engine = FakeEngine(says("abcdefgh"), manual=True)
    client = await connect_stored(engine, file.settings)
    client.headers = httpx.Headers(as_key("alice"))
    asked = {"model": "demo", "input": "hi", "background": True}
    id = (await client.post(RESPONSES, json=asked)).json()["id"]
    assert (await client.post(f"{RESPONSES}/{id}/verify")).status_code == 429
    engine.allow(9)
    await client.get(f"{RESPONSES}/{id}?stream=true")
    verifying = asyncio.create_task(client.post(f"{RESPONSES}/{id}/verify"))
    await until(lambda: engine.num_alive == 1)
    refused = await client.post(f"{RESPONSES}/{id}/verify")
    assert refused.status_code == 429 and "max_requests" in refused.text
    verifying.cancel()
    await until(lambda: engine.cancelled != [])
    engine.allow(9)
    await until(lambda: engine.num_alive == 0)
    assert (await verify(client, id))["is_equal"]
