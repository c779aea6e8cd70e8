"""Conversations are found by the words of their titles and texts."""

import pytest

from llamastream.errors import InvalidRequest
from llamastream.records import Item
from llamastream.store.store import Store
from tests.store.doubles import SCOPE


def said(id: str, text: str) -> Item:
    return Item(id, {"role": "user", "parts": [text], "status": "completed"})


async def add(store: Store, id: str, title: str, *texts: str, scope: str = SCOPE) -> None:
    items = [said(f"{id}-{k}", text) for k, text in enumerate(texts)]
    await store.conversations.create(id, scope=scope, metadata={"title": title}, items=items)


async def found(store: Store, query: str, limit: int = 10) -> list[tuple[str, str | None]]:
    results = await store.conversations.search(query, scope=SCOPE, limit=limit)
    return [(one.conversation.id, one.item and one.item.id) for one in results]


async def test_titles_come_first_then_the_newest_texts(store: Store) -> None:
    await add(store, "c1", "On lighthouses", "nothing")
    await add(store, "c2", "Other", "A Lighthouse\nkeeper", "the lighthouse again")
    await add(store, "c3", "Third", 'say "lighthouse", user')
    await add(store, "c4", "Theirs", "lighthouse", scope="other")
    assert await found(store, "lighthouse") == [("c1", None), ("c3", "c3-0"), ("c2", "c2-1")]
    assert await found(store, "KEEPER light") == [("c2", "c2-0")]  # the last word may go on
    assert await found(store, "light", limit=2) == [("c1", None), ("c3", "c3-0")]
    assert await found(store, "keep lighthouse") == []
    assert await found(store, "user") == [("c3", "c3-0")]
    assert await found(store, "status") == []


async def test_what_is_deleted_is_not_found(store: Store) -> None:
    await add(store, "c1", "One", "needle", "hay")
    await add(store, "c2", "Two", "needle")
    await store.conversations.delete_item("c1", "c1-0", scope=SCOPE)
    await store.conversations.delete("c2", scope=SCOPE)
    assert await found(store, "needle") == []
    assert await found(store, "hay") == [("c1", "c1-1")]
    await store.conversations.update("c1", scope=SCOPE, metadata={"title": "needles"})
    assert await found(store, "needle") == [("c1", None)]


@pytest.mark.parametrize("query", ["", " -*\"' ", "x" * 201])
async def test_what_has_no_words_is_refused(store: Store, query: str) -> None:
    with pytest.raises(InvalidRequest):
        await found(store, query)


@pytest.mark.parametrize("query", ['a" OR "b', "a' | b", "NEAR(a b)", "a:* & b", "%", "a_b%"])
async def test_a_query_is_words_and_no_language(store: Store, query: str) -> None:
    await add(store, "c1", "One", "alpha")
    if query != "%":
        assert await found(store, query) == []
