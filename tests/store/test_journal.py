import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert
from sqlalchemy.exc import OperationalError

from llamastream.errors import NotFound, StoreUnavailable
from llamastream.records import Drawn, Outcome, Status
from llamastream.store.database import sqlite_url
from llamastream.store.journal import FOLD_AFTER
from llamastream.store.packing import pack_ids
from llamastream.store.store import Store
from llamastream.store.tables import journal
from llamastream.store.transaction import InProgress, Transaction
from llamastream.types import Token
from tests.store.doubles import DONE, SCOPE, TokenLog, append, start, token_id, tokens


def count_rows(path: Path) -> int:
    engine = create_engine(f"sqlite:///{path / 'llamastream.db'}")
    with engine.connect() as conn:
        number: int = conn.exec_driver_sql("SELECT count(*) FROM journal").scalar_one()
    engine.dispose()
    return number


async def test_appended_tokens_are_read_back_from_any_position(store: Store) -> None:
    await start(store, "r1", "r2")
    await append(store, tokens("r1", 0, 1), tokens("r2", 0, 1))
    await append(store, tokens("r1", 0, 4), tokens("r2", 0, 2))
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 4)
    assert await store.responses.tokens("r1", scope=SCOPE, after=2) == tokens("r1", 3, 4)
    assert await store.responses.tokens("r2", scope=SCOPE, after=9) == []


async def test_finished_response_gives_the_same_tokens(store: Store) -> None:
    await start(store, "r1")
    await append(store, tokens("r1", 0, 5))
    before = await store.responses.tokens("r1", scope=SCOPE, after=1)
    await store.responses.finish("r1", DONE)
    assert await store.responses.tokens("r1", scope=SCOPE, after=1) == before == tokens("r1", 2, 5)


async def test_tokens_submitted_before_the_end_are_in_it(store: Store) -> None:
    await start(store, "r1")
    appended = append(store, tokens("r1", 0, 2))
    finished = asyncio.ensure_future(store.responses.finish("r1", DONE))
    assert await appended == {}
    await finished
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 2)


async def test_log_probabilities_come_back_digit_for_digit(store: Store) -> None:
    first = Token("r1", 0, 5, -0.1, ((5, -0.1), (9, -2.3000000000000003)))
    second = Token("r1", 1, 6, -1e-300, ((6, float("-inf")),))
    await start(store, "r1")
    await append(store, [first])
    await append(store, [first, second])
    assert await store.responses.tokens("r1", scope=SCOPE) == [first, second]
    await store.responses.finish("r1", DONE)
    assert await store.responses.tokens("r1", scope=SCOPE) == [first, second]
    assert await store.responses.tokens("r1", scope=SCOPE, after=0) == [second]


async def test_one_bad_stream_does_not_refuse_the_others_of_its_step(store: Store) -> None:
    await start(store, "good", "again")
    await append(store, tokens("again", 0, 2))
    refused = await append(store, tokens("good", 0, 1), tokens("none", 0, 2), tokens("again", 0, 2))
    assert {id: type(error) for id, error in refused.items()} == {"none": NotFound}
    assert await store.responses.tokens("good", scope=SCOPE) == tokens("good", 0, 1)
    assert await store.responses.tokens("again", scope=SCOPE) == tokens("again", 0, 2)


async def test_a_log_that_was_set_back_is_journalled_anew_from_there(store: Store) -> None:
    """Of an answer that was parked, the database may have more than its caller was told."""
    await start(store, "r1")
    await append(store, tokens("r1", 0, 6))
    for length in (3, 4, 8):
        assert await append(store, tokens("r1", 0, length)) == {}
        assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, max(6, length))
    await store.responses.finish("r1", DONE, Drawn("r1", TokenLog(tokens("r1", 0, 5)), 5))
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 5)


async def test_every_failed_step_is_made_up_for_by_the_next(store: Store) -> None:
    await start(store, "r1")
    await append(store, tokens("r1", 0, 2))

    def fail(_: object) -> None:
        raise OperationalError("on purpose", None, Exception("full"))

    for length in (3, 5):
        failing, step = store._writer.run(fail), append(store, tokens("r1", 0, length))
        outcomes = await asyncio.gather(failing, step, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 2)
    assert await append(store, tokens("r1", 0, 6)) == {}
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 6)


async def test_nothing_can_be_appended_after_the_end(store: Store) -> None:
    await start(store, "r1")
    await store.responses.finish("r1", DONE)
    assert isinstance((await append(store, tokens("r1", 0, 1)))["r1"], NotFound)
    with pytest.raises(NotFound, match="'r1' is not in progress"):
        await store.responses.finish("r1", DONE)


async def test_steps_that_pile_up_share_a_transaction(store: Store, tmp_path: Path) -> None:
    await start(store, "r1")
    blocked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def block(_: object) -> None:
        asyncio.run_coroutine_threadsafe(blocked.wait(), loop).result()

    first = store._writer.run(block)  # the writer is busy while the steps come
    steps = [append(store, tokens("r1", 0, k + 1)) for k in range(50)]
    blocked.set()
    await first
    assert await asyncio.gather(*steps) == [{}] * 50
    if (tmp_path / "llamastream.db").exists():
        assert count_rows(tmp_path) <= 2
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 50)


async def test_journal_is_empty_when_nothing_is_in_progress(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path)) as store:
        await start(store, "r1", "r2")
        await append(store, tokens("r1", 0, 1), tokens("r2", 0, 1))
        await append(store, tokens("r2", 0, 2))
        assert count_rows(tmp_path) == 2
        await store.responses.finish("r1", DONE)
        await store.responses.finish("r2", DONE)
        assert count_rows(tmp_path) == 0


async def test_long_stream_does_not_hold_back_the_journal_of_all(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path)) as store:
        await start(store, "long")
        expected = tokens("long", 0, FOLD_AFTER + 2)
        for length in range(1, FOLD_AFTER + 3):
            await store.append([Drawn("long", TokenLog(expected), length)])
        assert count_rows(tmp_path) < 10
        assert await store.responses.tokens("long", scope=SCOPE) == expected
        await store.responses.finish("long", DONE)
        assert await store.responses.tokens("long", scope=SCOPE) == expected


async def test_durability_off_writes_tokens_at_the_end_only(tmp_path: Path) -> None:
    async with await Store.open(sqlite_url(tmp_path), durability="off") as store:
        await start(store, "r1")
        assert await append(store, tokens("r1", 0, 3)) == {}
        assert count_rows(tmp_path) == 0
        assert await store.responses.tokens("r1", scope=SCOPE) == []
        await store.responses.finish("r1", DONE)
        assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 3)


async def test_closed_store_refuses_and_says_why(tmp_path: Path) -> None:
    store = await Store.open(sqlite_url(tmp_path))
    await store.close()
    with pytest.raises(StoreUnavailable, match="server is stopping"):
        await append(store, tokens("r1", 0, 1))


async def test_error_in_one_job_takes_back_that_job_alone(store: Store) -> None:
    """All four are one transaction: they are submitted without a pause."""
    good, bad = (
        asyncio.ensure_future(start(store, "r1")),
        asyncio.ensure_future(start(store, "r2", previous_response_id="none")),
    )
    last = asyncio.ensure_future(start(store, "r3"))
    await asyncio.gather(good, last)
    with pytest.raises(NotFound, match="'none'"):
        await bad
    assert set(await append(store, tokens("r1", 0, 1), tokens("r2", 0, 1))) == {"r2"}
    with pytest.raises(NotFound):
        await store.responses.get("r2", scope=SCOPE)


async def test_job_that_fails_changes_nothing_of_what_is_in_progress(store: Store) -> None:
    await start(store, "r1")

    def fail(tx: Transaction) -> None:
        tx.in_progress["r2"] = InProgress(99, SCOPE, 0)
        del tx.in_progress["r1"]
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await store._writer.run(fail)
    assert set(await append(store, tokens("r1", 0, 1), tokens("r2", 0, 1))) == {"r2"}


async def test_tokens_written_twice_or_behind_a_hole_are_read_once_in_order(store: Store) -> None:
    """What a commit that was not confirmed leaves, and what a crash of the database may."""
    await start(store, "r1")

    def write(tx: Transaction) -> None:
        num = tx.in_progress["r1"].num
        for seq, positions in enumerate([(0, 1), (1, 2), (4,), (3, 4), (9,)], start=100):
            step = [value for k in positions for value in (num, k, token_id("r1", k))]
            row = {"owner": store._writer._journal.owner, "seq": seq, "tokens": pack_ids(step)}
            tx.conn.execute(insert(journal).values(row))

    await store._writer.run(write)
    assert await store.responses.tokens("r1", scope=SCOPE) == tokens("r1", 0, 5)


IDS = ("a", "b", "c")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("step"), st.dictionaries(st.sampled_from(IDS), st.integers(1, 3), min_size=1)
        ),
        st.tuples(st.sampled_from(("start", "finish", "fold")), st.sampled_from(IDS)),
        st.tuples(st.just("crash"), st.none()),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_any_history_reads_back_what_was_acknowledged(actions: list[tuple[str, object]]) -> None:
    """Steps, ends, folds, crashes and clean restarts in any order, against a dict of lists."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_Model(sqlite_url(Path(folder))).play(actions))


class _Model:
    def __init__(self, url: str) -> None:
        self._url = url
        self._tokens: dict[str, list[Token]] = {}
        self._is_open: set[str] = set()
        self._is_waiting: set[str] = set()  # of these

    async def play(self, actions: list[tuple[str, object]]) -> None:
        self._store = await Store.open(self._url)
        for name, argument in actions:
            await getattr(self, name)(argument)
            await self.check()
        await self._store.close()

    async def check(self) -> None:
        for id, expected in self._tokens.items():
            for after in (-1, 0, len(expected)):
                read = await self._store.responses.tokens(id, scope=SCOPE, after=after)
                assert read == expected[after + 1 :]

    async def start(self, id: str) -> None:
        if id not in self._tokens:
            await start(self._store, id)
            self._tokens[id] = []
            self._is_open.add(id)

    async def step(self, counts: dict[str, int]) -> None:
        step = counts.keys() & self._is_open - self._is_waiting
        for id in step:
            at = len(self._tokens[id])
            top = ((1, -0.25),) * (at % 2)
            self._tokens[id] = self._tokens[id] + [
                t._replace(logprob=-0.5, top_logprobs=top) if id == "a" else t
                for t in tokens(id, at, at + counts[id])
            ]
        assert await append(self._store, *(self._tokens[id] for id in step)) == {}

    async def finish(self, id: str) -> None:
        if id in self._is_open - self._is_waiting:
            await self._store.responses.finish(id, Outcome(Status.INCOMPLETE, {}))
            self._is_open.discard(id)

    async def fold(self, _: object) -> None:
        await self._store._writer.run(self._store._writer._journal.fold_all)

    async def restart(self, _: object) -> None:
        await self._store.close()
        await self._recover()

    async def crash(self, _: object) -> None:
        """Nothing is parked or folded: the files are left as they are."""
        await self._store._writer.close()
        self._store._database.close()
        await self._recover()

    async def _recover(self) -> None:
        self._store = await Store.open(self._url)
        found = {
            one.response.id: one for one in (await self._store.membership.recover()).interrupted
        }
        for id in self._is_open - found.keys():
            response = await self._store.responses.get(id, scope=SCOPE)
            if response.status is Status.FAILED:  # three servers without a token
                self._is_open.discard(id)
                self._is_waiting.discard(id)
            else:  # until another that no server brought further has gone on
                self._is_waiting.add(id)
        self._is_waiting -= found.keys()
        for id in self._is_open & found.keys():
            assert found[id].output_ids == tuple(token.token_id for token in self._tokens[id])
