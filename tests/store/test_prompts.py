"""Prompts of ended answers: kept for a second computation, and gone with what they held."""

from pathlib import Path

import pytest

from llamastream.records import Item, Outcome, Status
from llamastream.store.database import sqlite_url
from llamastream.store.store import Store
from tests.store.doubles import DONE, SCOPE, append, items, run, start, tokens
from tests.store.test_usage import check

PROMPT = (1, 2)


async def kept(store: Store) -> list[str]:
    """Ids of answers with their prompts."""
    await check(store)
    prompts = {
        id: (await store.prompts.recorded(id, scope=scope)).prompt_ids
        for id, scope in await store.prompts.ended()
    }
    assert set(prompts.values()) <= {PROMPT, None}
    return [id for id, prompt in prompts.items() if prompt is not None]


async def test_an_ended_answer_keeps_all_that_it_was_drawn_from(store: Store) -> None:
    await run(store, "r1", num_tokens=3)
    recorded = await store.prompts.recorded("r1", scope=SCOPE)
    assert recorded.prompt_ids == PROMPT and recorded.sampling.seed == 7
    assert recorded.token_ids == tuple(token.token_id for token in tokens("r1", 0, 3))
    assert recorded.response.status is Status.COMPLETED


async def test_a_failed_answer_keeps_no_prompt(store: Store) -> None:
    await start(store, "r1")
    await store.responses.finish("r1", Outcome(Status.FAILED, {}, error="broken"))
    assert await kept(store) == []
    assert (await store.prompts.recorded("r1", scope=SCOPE)).prompt_ids is None


async def test_what_continues_a_deleted_response_forgets_it(store: Store) -> None:
    for id, previous in (("a", None), ("b", "a"), ("c", "b"), ("d", "b"), ("other", None)):
        await run(store, id, previous_response_id=previous)
    await start(store, "e", previous_response_id="c")
    await store.responses.delete("b", scope=SCOPE)
    assert await kept(store) == ["a", "other"]
    await append(store, tokens("e", 0, 3))
    await store.responses.finish("e", DONE)  # its prompt was needed as long
    assert await kept(store) == ["a", "other"]
    recorded = await store.prompts.recorded("c", scope=SCOPE)
    assert recorded.prompt_ids is None and len(recorded.token_ids) == 3


@pytest.mark.parametrize("what", ["conversation", "item"])
async def test_what_was_said_in_a_conversation_goes_with_it(store: Store, what: str) -> None:
    said = (Item("said", {"type": "message"}),)
    for id in ("one", "two"):
        await store.conversations.create(id, scope=SCOPE, metadata={}, items=said)
        await run(store, f"of {id}".replace(" ", "-"), conversation_id=id, input_items=items(id))
    await start(store, "open", conversation_id="one")
    await run(store, "alone")
    if what == "conversation":
        await store.conversations.delete("one", scope=SCOPE)
    else:
        await store.conversations.delete_item("one", "said", scope=SCOPE)
    await store.responses.finish("open", DONE)
    assert await kept(store) == ["of-two", "alone"]


async def test_another_server_that_ends_an_answer_forgets_its_prompt_too(url: str) -> None:
    """A flag of the row: whoever ends it reads that."""
    async with await Store.open(url) as store:
        await run(store, "a")
        await start(store, "b", previous_response_id="a")
        await store.responses.delete("a", scope=SCOPE)
    async with await Store.open(url) as store:
        news = await store.membership.heed(await store.membership.look())
        assert [one.response.id for one in news.recovery.interrupted] == ["b"]
        assert news.recovery.interrupted[0].prompt_ids == PROMPT
        await store.responses.finish("b", DONE)
        assert await kept(store) == []


async def test_prompts_are_in_an_export(store: Store, tmp_path: Path) -> None:
    await run(store, "a")
    await run(store, "b", previous_response_id="a")
    await store.responses.delete("a", scope=SCOPE)
    await run(store, "c")
    await store.export(tmp_path / "file")
    async with await Store.open(sqlite_url(tmp_path / "other")) as other:
        await other.import_(tmp_path / "file")
        assert await kept(other) == ["c"]
