import pytest

from llamastream.errors import InvalidRequest, NotFound
from llamastream.records import ConversationLimits, Outcome, PageQuery, Status
from llamastream.store.store import Store
from tests.store.doubles import SCOPE, items, run, start

ALL = PageQuery(limit=100, order="asc")


async def a_conversation(store: Store, *ids: str) -> None:
    await store.conversations.create("c1", scope=SCOPE, metadata={"m": "1"}, items=items(*ids))


async def ids_in(store: Store, id: str = "c1") -> str:
    return "".join(item.id for item in await store.conversations.history(id, scope=SCOPE))


async def test_conversation_is_created_read_updated_and_deleted(store: Store) -> None:
    created = await store.conversations.create("c1", scope=SCOPE, metadata={"b": "1", "a": "2"})
    assert await store.conversations.get("c1", scope=SCOPE) == created
    updated = await store.conversations.update("c1", scope=SCOPE, metadata={"x": "y"})
    assert updated.metadata == {"x": "y"} and updated.created_at == created.created_at
    assert await store.conversations.get("c1", scope=SCOPE) == updated
    await store.conversations.delete("c1", scope=SCOPE)
    with pytest.raises(NotFound):
        await store.conversations.get("c1", scope=SCOPE)


@pytest.mark.parametrize("id", ["unknown", "foreign", "deleted", "bad\0id"])
async def test_what_is_not_ours_is_not_found_whatever_the_reason(store: Store, id: str) -> None:
    for known, scope in (("foreign", "key-2"), ("deleted", SCOPE)):
        await store.conversations.create(known, scope=scope, metadata={}, items=items("i"))
    await store.conversations.delete("deleted", scope=SCOPE)
    calls = (
        store.conversations.get(id, scope=SCOPE),
        store.conversations.update(id, scope=SCOPE, metadata={}),
        store.conversations.delete(id, scope=SCOPE),
        store.conversations.items(id, scope=SCOPE, query=ALL),
        store.conversations.history(id, scope=SCOPE),
        store.conversations.item(id, "i", scope=SCOPE),
        store.conversations.add_items(id, items("n"), scope=SCOPE),
        store.conversations.delete_item(id, "i", scope=SCOPE),
        start(store, "r", conversation_id=id),
    )
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.message == f"Conversation {id!r} not found."


async def test_items_are_appended_read_and_deleted(store: Store) -> None:
    await a_conversation(store, "a", "b")
    await store.conversations.add_items("c1", items("c", "d"), scope=SCOPE)
    await store.conversations.delete_item("c1", "b", scope=SCOPE)
    await store.conversations.add_items("c1", items("e"), scope=SCOPE)
    assert await ids_in(store) == "acde"
    assert await store.conversations.item("c1", "c", scope=SCOPE) == items("c")[0]
    for gone in ("b", "z", "a\0"):
        with pytest.raises(NotFound):
            await store.conversations.item("c1", gone, scope=SCOPE)
        with pytest.raises(NotFound):
            await store.conversations.delete_item("c1", gone, scope=SCOPE)


async def test_items_are_paged(store: Store) -> None:
    await a_conversation(store, *"abcde")
    query = PageQuery(limit=2, order="asc", after="b")
    page = await store.conversations.items("c1", scope=SCOPE, query=query)
    assert page.data == items("c", "d") and page.has_more
    page = await store.conversations.items("c1", scope=SCOPE, query=PageQuery(limit=2, after="b"))
    assert page.data == items("a") and not page.has_more


@pytest.mark.parametrize("new", [("b",), ("c", "c")])
async def test_item_id_is_taken_once(store: Store, new: tuple[str, ...]) -> None:
    await a_conversation(store, "a", "b")
    with pytest.raises(InvalidRequest, match=f"Given again: {new[0]}"):
        await store.conversations.add_items("c1", items(*new), scope=SCOPE)
    assert await ids_in(store) == "ab"


async def test_conversations_of_a_scope_are_listed_newest_first(store: Store) -> None:
    for k in range(5):
        await store.conversations.create(f"c{k}", scope=SCOPE, metadata={})
    await store.conversations.create("other", scope="key-2", metadata={})
    page = await store.conversations.list(scope=SCOPE, query=PageQuery(limit=2, after="c3"))
    assert [one.id for one in page.data] == ["c2", "c1"]
    assert page.has_more
    with pytest.raises(NotFound):
        await store.conversations.list(scope=SCOPE, query=PageQuery(after="other"))


async def test_response_joins_its_conversation_when_it_ends(store: Store) -> None:
    await a_conversation(store, "a")
    await start(store, "r1", conversation_id="c1", input_items=items("b"))
    assert await ids_in(store) == "a"
    await store.responses.finish("r1", Outcome(Status.COMPLETED, {}, items("c", "d")))
    await store.conversations.add_items("c1", items("e"), scope=SCOPE)
    assert await ids_in(store) == "abcde"


async def test_failed_response_does_not_join(store: Store) -> None:
    await a_conversation(store, "a")
    await start(store, "r1", conversation_id="c1", input_items=items("b"))
    await store.responses.finish("r1", Outcome(Status.FAILED, {}, items("c")))
    assert await ids_in(store) == "a"


async def test_response_outlives_its_conversation(store: Store) -> None:
    await a_conversation(store, "a")
    await start(store, "r1", conversation_id="c1", input_items=items("b"))
    await run(store, "r0", conversation_id="c1", input_items=items("y"))
    await store.conversations.delete("c1", scope=SCOPE)
    await store.responses.finish("r1", Outcome(Status.COMPLETED, {}, items("c")))
    for id, item in (("r1", "b"), ("r0", "y")):
        page = await store.responses.input_items(id, scope=SCOPE, query=ALL)
        assert page.data == items(item)


async def test_conversation_keeps_the_items_of_a_deleted_response(store: Store) -> None:
    await a_conversation(store, "a")
    await run(store, "r1", conversation_id="c1", input_items=items("b"), output_items=items("c"))
    await store.responses.delete("r1", scope=SCOPE)
    assert await ids_in(store) == "abc"


async def test_item_taken_out_of_a_conversation_stays_with_its_response(store: Store) -> None:
    await a_conversation(store, "a")
    await run(store, "r1", conversation_id="c1", input_items=items("b"))
    await store.conversations.delete_item("c1", "b", scope=SCOPE)
    assert await ids_in(store) == "a"
    assert (await store.responses.input_items("r1", scope=SCOPE, query=ALL)).data == items("b")


async def test_conversation_takes_no_more_items_than_it_may(url: str) -> None:
    limits = ConversationLimits(max_items=4)
    async with await Store.open(url, limits=limits) as store:
        await store.conversations.create("c1", scope=SCOPE, metadata={}, items=items("a", "b"))
        with pytest.raises(InvalidRequest, match="<= 4 items. Given: 2, and 3 more") as caught:
            await store.conversations.add_items("c1", items("c", "d", "e"), scope=SCOPE)
        assert "--max-conversation-items" in caught.value.message
        with pytest.raises(InvalidRequest, match="<= 4 items. Given: 0, and 5 more"):
            await store.conversations.create(
                "c2", scope=SCOPE, metadata={}, items=items("a", "b", "c", "d", "e")
            )
        await run(
            store, "r1", conversation_id="c1", input_items=items("c"), output_items=items("d")
        )
        with pytest.raises(InvalidRequest, match="Given: 4, and 1 more"):  # for its answer
            await start(store, "r2", conversation_id="c1")
        await store.conversations.delete_item("c1", "a", scope=SCOPE)
        await run(store, "r3", conversation_id="c1", output_items=items("e"))
        assert await store.conversations.history("c1", scope=SCOPE) == items("b", "c", "d", "e")


async def test_answer_joins_a_conversation_that_became_full_meanwhile(url: str) -> None:
    """Nothing that was said is lost: the limit is looked at when an answer begins."""
    async with await Store.open(url, limits=ConversationLimits(max_items=2)) as store:
        await store.conversations.create("c1", scope=SCOPE, metadata={})
        await start(store, "r1", conversation_id="c1")
        await store.conversations.add_items("c1", items("a", "b"), scope=SCOPE)
        await store.responses.finish("r1", Outcome(Status.COMPLETED, {}, items("c")))
        assert len(await store.conversations.history("c1", scope=SCOPE)) == 3


async def test_chain_has_a_limit(url: str) -> None:
    async with await Store.open(url, limits=ConversationLimits(max_items=3)) as store:
        for k in range(4):
            previous = f"r{k - 1}" if k else None
            await run(store, f"r{k}", previous_response_id=previous, input_items=items(f"i{k}"))
        assert len(await store.responses.history("r2", scope=SCOPE)) == 3
        with pytest.raises(InvalidRequest, match="may continue <= 3 others"):
            await store.responses.history("r3", scope=SCOPE)
