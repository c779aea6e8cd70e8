"""A conversation is a tree: an item follows the one before it, or another that it names."""

import random

import pytest

from llamastream.errors import NotFound
from llamastream.records import ROOT
from llamastream.store.store import Store
from tests.store.doubles import SCOPE, items


async def make(store: Store, *added: str) -> None:
    """ "c" is added behind what was added before it, "c<a" behind a."""
    await store.conversations.create("c1", scope=SCOPE, metadata={})
    for text in added:
        await add(store, text)


async def add(store: Store, text: str) -> None:
    id, _, follows = text.partition("<")
    (item,) = items(id)
    await store.conversations.add_items("c1", [item._replace(follows=follows or None)], scope=SCOPE)


async def way(store: Store, after: str | None = None) -> str:
    found = await store.conversations.history("c1", scope=SCOPE, after=after)
    return "".join(item.id for item in found)


async def test_a_history_is_the_way_to_an_item(store: Store) -> None:
    await make(store, "a", "b", "c", "d<a", "e", f"f<{ROOT}", "g<c")
    assert await way(store) == "abcg"
    assert await way(store, "e") == "ade"
    assert await way(store, "c") == "abc"
    assert await way(store, "f") == "f"
    assert await way(store, ROOT) == ""


async def test_an_unknown_item_is_not_followed(store: Store) -> None:
    await make(store, "a")
    with pytest.raises(NotFound):
        await way(store, "x")
    with pytest.raises(NotFound):
        await add(store, "b<x")
    assert await way(store) == "a"


@pytest.mark.parametrize("seed", range(6))
async def test_what_followed_a_deleted_item_follows_what_that_did(store: Store, seed: int) -> None:
    rng = random.Random(seed)
    ids = list("abcdefghij")
    follows = {id: rng.choice([None, ROOT, *ids[:k]]) for k, id in enumerate(ids)}
    await make(store, *(f"{id}<{after or ''}" for id, after in follows.items()))
    ways = {id: await way(store, id) for id in ids}
    for gone in rng.sample(ids, 6):
        await store.conversations.delete_item("c1", gone, scope=SCOPE)
        del ways[gone]
        ways = {id: text.replace(gone, "") for id, text in ways.items()}
        assert {id: await way(store, id) for id in ways} == ways
