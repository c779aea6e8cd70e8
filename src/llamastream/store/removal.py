"""Taking records away for good, with what nothing else holds of them."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, update

from llamastream.records import Status
from llamastream.store.clock import StoreClock
from llamastream.store.prompts import forget_behind, forget_of_conversations
from llamastream.store.rows import ROW_BYTES, size_of
from llamastream.store.tables import conversations, items, responses
from llamastream.store.transaction import Transaction


def remove_conversations(tx: Transaction, nums: Sequence[int]) -> None:
    forget_of_conversations(tx, nums)
    conn, charges = tx.conn, tx.charges
    inside = items.c.conversation_num.in_(nums)
    gone = delete(items).where(inside, items.c.response_num.is_(None))
    sizes = conn.execute(gone.returning(items.c.conversation_num, items.c.num_bytes)).all()
    conn.execute(update(items).where(inside).values(conversation_num=None, position=None))
    columns = (conversations.c.num, conversations.c.scope, conversations.c.metadata)
    of_nums = delete(conversations).where(conversations.c.num.in_(nums))
    scopes = {}
    for num, scope, metadata in conn.execute(of_nums.returning(*columns)):
        scopes[num] = scope
        charges.add(scope, num_bytes=-ROW_BYTES - size_of(metadata))
    for num, num_bytes in sizes:
        charges.add(scopes[num], num_bytes=-num_bytes)


def remove_responses(tx: Transaction, nums: Sequence[int]) -> None:
    forget_behind(tx, nums)
    conn, charges = tx.conn, tx.charges
    inside = items.c.response_num.in_(nums)
    gone = delete(items).where(inside, items.c.conversation_num.is_(None))
    sizes = conn.execute(gone.returning(items.c.response_num, items.c.num_bytes)).all()
    columns = (responses.c.num, responses.c.scope, responses.c.num_bytes)
    of_nums = delete(responses).where(responses.c.num.in_(nums)).returning(*columns)
    scopes = {}
    for num, scope, num_bytes in conn.execute(of_nums):
        scopes[num] = scope
        charges.add(scope, num_responses=-1, num_bytes=-num_bytes)
    for num, num_bytes in sizes:
        charges.add(scopes[num], num_bytes=-num_bytes)


def give_up(conn: Connection, num: int, clock: StoreClock) -> None:
    """End a response whose record is damaged. It stays so: nobody takes it for what it was."""
    change = update(responses).where(responses.c.num == num)
    times = {"finished_at": clock.wall(), "kept_from": clock.steady()}
    conn.execute(change.values(times | {"status": Status.FAILED, "prompt_ids": None}))
