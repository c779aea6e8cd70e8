import pytest

from llamastream.errors import IdempotencyConflict, InvalidRequest, NotFound, quoted
from llamastream.records import IdempotencyKey, NewResponse, Outcome, PageQuery, Status
from llamastream.sampling import SamplingParams
from llamastream.store.store import Store
from tests.store.conftest import Clock
from tests.store.doubles import DONE, SCOPE, a_response, append, items, run, start, tokens

KEY = IdempotencyKey("k", b"digest")


async def test_response_passes_from_in_progress_to_its_outcome(store: Store, clock: Clock) -> None:
    created, existing = await store.responses.create(a_response("r1"), scope=SCOPE)
    assert not existing
    assert created.status is Status.IN_PROGRESS and created.finished_at is None
    assert await store.responses.get("r1", scope=SCOPE) == created
    clock.now += 5
    ended = await store.responses.finish("r1", Outcome(Status.FAILED, {"a": [1]}, error="why"))
    assert await store.responses.get("r1", scope=SCOPE) == ended
    assert (ended.status, ended.result, ended.error) == (Status.FAILED, {"a": [1]}, "why")
    assert ended.finished_at == created.created_at + 5


async def test_requests_and_results_come_back_as_they_were(store: Store) -> None:
    request = {"z": 1, "a": {"nul": "\x00", "emoji": "🦙", "deep": [None, True, 1.5, 2**63]}}
    await start(store, "r1", request=request)
    response = await store.responses.get("r1", scope=SCOPE)
    assert response.request == request
    assert list(response.request) == ["z", "a"]


@pytest.mark.parametrize("id", ["unknown", "foreign", "deleted", "bad\0id", "", "ü", "x" * 300])
async def test_what_is_not_ours_is_not_found_whatever_the_reason(store: Store, id: str) -> None:
    await run(store, "foreign", scope="key-2")
    await run(store, "deleted")
    await store.responses.delete("deleted", scope=SCOPE)
    calls = (
        store.responses.get(id, scope=SCOPE),
        store.responses.tokens(id, scope=SCOPE),
        store.responses.input_items(id, scope=SCOPE, query=PageQuery()),
        store.responses.history(id, scope=SCOPE),
        store.responses.delete(id, scope=SCOPE),
        store.responses.create(a_response("r", previous_response_id=id), scope=SCOPE),
    )
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.message == f"Response {quoted(id)} not found."


async def test_tokens_in_progress_are_not_shown_to_another_scope(store: Store) -> None:
    await start(store, "r1")
    await append(store, tokens("r1", 0, 1))
    with pytest.raises(NotFound):
        await store.responses.tokens("r1", scope="key-2")


async def test_deleted_response_in_progress_takes_no_more_tokens(store: Store) -> None:
    await start(store, "r1")
    await store.responses.delete("r1", scope=SCOPE)
    assert isinstance((await append(store, tokens("r1", 0, 1)))["r1"], NotFound)
    with pytest.raises(NotFound):
        await store.responses.finish("r1", DONE)


async def test_input_items_are_paged_both_ways(store: Store) -> None:
    await run(store, "r1", input_items=items("a", "b", "c", "d", "e"), output_items=items("out"))

    async def ids(**query: object) -> tuple[str, bool]:
        page = await store.responses.input_items(
            "r1",
            scope=SCOPE,
            query=PageQuery(**query),  # type: ignore[arg-type]
        )
        return "".join(item.id for item in page.data), page.has_more

    assert await ids(limit=2) == ("ed", True)
    assert await ids(limit=2, after="d") == ("cb", True)
    assert await ids(limit=2, after="b") == ("a", False)
    assert await ids(limit=5, order="asc") == ("abcde", False)
    assert await ids(limit=2, order="asc", after="c") == ("de", False)
    with pytest.raises(NotFound, match="no entry 'out'"):
        await ids(after="out")


@pytest.mark.parametrize("limit", [0, 101])
def test_page_size_has_limits(limit: int) -> None:
    with pytest.raises(InvalidRequest, match=f"limit must be .* Given: {limit}"):
        PageQuery(limit=limit)


async def test_history_is_the_whole_chain_oldest_first(store: Store) -> None:
    await run(store, "r1", input_items=items("i1"), output_items=items("o1"))
    await run(store, "other", input_items=items("x"), previous_response_id="r1")
    await run(
        store,
        "r2",
        previous_response_id="r1",
        input_items=items("i2", "i3"),
        output_items=items("o2"),
    )
    await run(store, "r3", previous_response_id="r2", input_items=items("i4"))
    history = await store.responses.history("r3", scope=SCOPE)
    assert history == items("i1", "o1", "i2", "i3", "o2", "i4")


async def test_the_first_of_a_chain_and_what_is_missing(store: Store) -> None:
    await run(store, "r1")
    await run(store, "r2", previous_response_id="r1")
    await run(store, "r3", previous_response_id="r2")
    await store.conversations.create("conv", scope="key-2", metadata={})
    assert [await store.first_of_chain(id, scope=SCOPE) for id in ("r3", "r1")] == ["r1", "r1"]
    assert await store.missing({"r1", "r3", "conv", "r4"}) == {"r4"}
    assert await store.missing(f"r{k}" for k in range(2000)) == {
        f"r{k}" for k in range(2000) if k not in (1, 2, 3)
    }
    await store.responses.delete("r1", scope=SCOPE)
    assert await store.first_of_chain("r3", scope=SCOPE) == "r2"


async def test_hole_in_a_chain_is_told(store: Store) -> None:
    await run(store, "r1")
    await run(store, "r2", previous_response_id="r1")
    await run(store, "r3", previous_response_id="r2")
    await store.responses.delete("r1", scope=SCOPE)
    with pytest.raises(NotFound, match="'r1', which 'r3' continues"):
        await store.responses.history("r3", scope=SCOPE)


async def test_unfinished_response_cannot_be_continued(store: Store) -> None:
    await start(store, "r1")
    with pytest.raises(InvalidRequest, match="'r1' is still in progress"):
        await store.responses.history("r1", scope=SCOPE)


def test_conversation_and_previous_response_exclude_each_other() -> None:
    with pytest.raises(InvalidRequest, match="conversation and previous_response_id"):
        a_response("r", conversation_id="c", previous_response_id="p")


def test_stored_response_needs_its_seed() -> None:
    with pytest.raises(ValueError, match="seed"):
        NewResponse("r", {}, (1,), SamplingParams())


async def test_same_key_and_request_give_the_first_response(store: Store) -> None:
    first = await store.responses.create(a_response("r1", idempotency=KEY), scope=SCOPE)
    again = await store.responses.create(a_response("r2", idempotency=KEY), scope=SCOPE)
    assert again.existing and again.response == first.response
    await store.responses.finish("r1", DONE)
    third = await store.responses.create(a_response("r3", idempotency=KEY), scope=SCOPE)
    assert third.existing and third.response.status is Status.COMPLETED


async def test_same_key_for_another_request_is_refused(store: Store) -> None:
    await start(store, "r1", idempotency=KEY)
    with pytest.raises(IdempotencyConflict) as caught:
        await start(store, "r2", idempotency=KEY._replace(digest=b"other"))
    assert caught.value.status == 400
    assert caught.value.param == "Idempotency-Key"


async def test_key_belongs_to_its_scope_and_ends_with_its_response(store: Store) -> None:
    await start(store, "r1", idempotency=KEY)
    other = await store.responses.create(a_response("r2", idempotency=KEY), scope="key-2")
    assert not other.existing
    await store.responses.delete("r1", scope=SCOPE)
    again = await store.responses.create(a_response("r3", idempotency=KEY), scope=SCOPE)
    assert not again.existing


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "nul\0"])
async def test_key_has_limits(store: Store, key: str) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key must be 1 to 255"):
        await start(store, "r1", idempotency=IdempotencyKey(key, b""))


async def test_key_of_a_response_that_nobody_generates_starts_it_anew(store: Store) -> None:
    """Its commit was not confirmed, so that its caller tries again."""
    await start(store, "r1", idempotency=KEY)
    store._writer.in_progress = {}
    created = await store.responses.create(a_response("r2", idempotency=KEY), scope=SCOPE)
    assert not created.existing and created.response.id == "r2"
    with pytest.raises(NotFound):
        await store.responses.get("r1", scope=SCOPE)


async def test_those_that_ended_well_are_listed_by_kind_and_filtered(store: Store) -> None:
    for k in range(7):
        await run(store, f"chat-{k}", request={"number": k})
        await run(store, f"resp_{k}")
    await run(store, "chat-foreign", scope="key-2")
    await start(store, "chat-open")
    await store.responses.finish("chat-open", Outcome(Status.FAILED, {}, error="why"))
    await start(store, "chat-in-progress")

    async def ids(remainder: int, **query: object) -> tuple[list[str], bool]:
        page = await store.responses.list(
            scope=SCOPE,
            prefix="chat-",
            query=PageQuery(**query),  # type: ignore[arg-type]
            matches=lambda one: one.request["number"] % 2 == remainder,
        )
        return [one.id for one in page.data], page.has_more

    assert await ids(0, order="asc") == (["chat-0", "chat-2", "chat-4", "chat-6"], False)
    assert await ids(0, limit=2) == (["chat-6", "chat-4"], True)
    assert await ids(0, limit=2, after="chat-4") == (["chat-2", "chat-0"], False)
    assert await ids(1, limit=1, order="asc", after="chat-3") == (["chat-5"], False)
    with pytest.raises(NotFound):
        await ids(0, after="resp_1")


async def test_a_changed_request_is_the_one_that_ends(store: Store) -> None:
    await start(store, "r1", request={"a": 1, "b": 2})
    changed = await store.responses.update("r1", lambda old: old | {"b": 3}, scope=SCOPE)
    assert changed.request == {"a": 1, "b": 3}
    assert (await store.responses.finish("r1", DONE)).request == changed.request
    with pytest.raises(NotFound):
        await store.responses.update("r1", dict, scope="key-2")


async def test_an_end_whose_confirmation_was_lost_is_found_when_it_is_told_again(
    store: Store,
) -> None:
    """A connection lost in COMMIT leaves open whether it came through."""
    await start(store, "r1")
    await append(store, tokens("r1", 0, 3))
    before = store._writer.in_progress
    done = Outcome(Status.COMPLETED, {"n": 1}, items("out"))
    first = await store.responses.finish("r1", done)
    store._writer.in_progress = before
    second = await store.responses.finish("r1", done)
    assert second == first
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 3)
    assert [item.id for item in await store.responses.history("r1", scope=SCOPE)] == ["out"]
