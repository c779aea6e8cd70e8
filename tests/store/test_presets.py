import asyncio

import pytest

from llamastream.errors import InvalidRequest, NotFound
from llamastream.records import PageQuery, Preset, Retention
from llamastream.store.presets import MAX_PRESETS
from llamastream.store.store import Store
from tests.store.conftest import Clock
from tests.store.doubles import SCOPE

ALL = PageQuery(limit=100, order="asc")


async def save(store: Store, id: str, name: str, scope: str = SCOPE, **settings: object) -> Preset:
    return await store.presets.save(id, scope=scope, name=name, settings=settings)


async def names(store: Store, scope: str = SCOPE) -> list[str]:
    page = await store.presets.list(scope=scope, query=ALL)
    return [one.name for one in page.data]


async def test_a_name_is_one_preset_that_keeps_its_id(store: Store, clock: Clock) -> None:
    first = await save(store, "p1", "Brief", b=1, a=2)
    await save(store, "p2", "brief")
    clock.now += 100
    second = await save(store, "p3", "Brief", a=3)
    assert second == Preset("p1", SCOPE, first.created_at, "Brief", {"a": 3})
    assert await store.presets.get("p1", scope=SCOPE) == second
    assert await names(store) == ["Brief", "brief"]
    with pytest.raises(NotFound):
        await store.presets.get("p3", scope=SCOPE)


async def test_presets_belong_to_their_scope(store: Store) -> None:
    await save(store, "p1", "Brief")
    await save(store, "p2", "Brief", "key-2", a=1)
    assert await names(store) == await names(store, "key-2") == ["Brief"]
    for call in (
        store.presets.get("p2", scope=SCOPE),
        store.presets.delete("p2", scope=SCOPE),
        store.presets.get("bad\0id", scope=SCOPE),
    ):
        with pytest.raises(NotFound, match=r"^Preset .* not found\.$"):
            await call
    await store.presets.delete("p1", scope=SCOPE)
    assert (await names(store), await names(store, "key-2")) == ([], ["Brief"])


async def test_a_scope_has_so_many_presets_and_no_more(store: Store) -> None:
    saved = (save(store, f"p{k}", f"name {k}") for k in range(MAX_PRESETS))
    await asyncio.gather(*saved)
    with pytest.raises(InvalidRequest, match=f"<= {MAX_PRESETS} presets"):
        await save(store, "more", "one more")
    assert (await save(store, "more", "name 7", a=1)).id == "p7"
    await save(store, "other", "one more", "key-2")
    await store.presets.delete("p0", scope=SCOPE)
    await save(store, "more", "one more")


async def test_presets_do_not_grow_old(store: Store, clock: Clock) -> None:
    await save(store, "p1", "Brief")
    clock.now += 400 * 86_400
    await store.sweep(Retention(max_age_s=1, max_conversations=0, max_responses=0))
    assert await names(store) == ["Brief"]
