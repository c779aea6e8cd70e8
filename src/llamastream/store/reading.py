"""Reading no more than is shown: pages of lists, and the part of a history that can be of use."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, TableClause, select

from llamastream.errors import NotFound, quoted
from llamastream.records import Item, Outline, Page, PageQuery, T
from llamastream.store.rows import ID, ITEM_COLUMNS, to_item
from llamastream.store.tables import items

MAX_PAGE_BYTES = 8 * 2**20  # of a page's entries together, unless the first alone has more
CHUNK = 500  # rows named in one statement

# Which items of a history to read, as ascending indexes. What it raises goes to the caller.
Choose = Callable[[Sequence[Outline]], Sequence[int]]


def fetch_page(
    conn: Connection,
    base: Select[Any],
    make: Callable[[Row[Any]], T],
    query: PageQuery,
    table: TableClause,
    *,
    order_by: str = "num",
    size: ColumnElement[int] | None = None,
) -> Page[T]:
    """The part of `base`, rows of `table`, that `query` asks for, in an order that an index serves.

    With the column `size` a page may end before `query.limit`. Raises NotFound when `query.after`
    is not in the list.
    """
    order = table.c[order_by]
    is_ascending = query.order == "asc"
    if query.after is not None:
        of_id = table.c.id == query.after
        after = base.with_only_columns(order).where(of_id).limit(1)
        anchor = conn.execute(after).scalar() if ID.fullmatch(query.after) else None
        if anchor is None:
            raise NotFound(
                f"The list has no entry {quoted(query.after)}: give an id of it.", param="after"
            )
        base = base.where(order > anchor if is_ascending else order < anchor)
    base = base.order_by(order.asc() if is_ascending else order.desc())
    limit = query.limit
    if size is not None:
        sizes = conn.execute(base.with_only_columns(size).limit(limit)).scalars().all()
        limit = _num_that_fit(sizes)
    rows = conn.execute(base.add_columns(order.label("place")).limit(limit)).all()
    if not rows:
        return Page((), has_more=False)
    last = rows[-1].place
    behind = base.where(order > last if is_ascending else order < last)
    more = conn.execute(behind.with_only_columns(order).limit(1)).scalar()
    return Page(tuple(map(make, rows)), has_more=more is not None)


def read_history(
    conn: Connection, rows: Select[Any], choose: Choose | None, among: set[int] | None = None
) -> tuple[Item, ...]:
    """Of the items that `rows` selects, in its order, those that `choose` wants; all without it.

    `among` are the nums of those that count; all without it.
    """
    outlines = conn.execute(rows.with_only_columns(items.c.num, items.c.num_bytes, items.c.role))
    nums, found = [], []
    for num, num_bytes, role in outlines:
        if among is not None and num not in among:
            continue
        nums.append(num)
        found.append(Outline(num_bytes, role))
    if choose is not None:
        nums = [nums[k] for k in choose(found)]
    return tuple(
        item
        for start in range(0, len(nums), CHUNK)
        for item in _read_items(conn, nums[start : start + CHUNK])
    )


def _read_items(conn: Connection, nums: Sequence[int]) -> list[Item]:
    statement = select(items.c.num, *ITEM_COLUMNS).where(items.c.num.in_(nums))
    by_num = {row.num: to_item(row) for row in conn.execute(statement)}
    return [by_num[num] for num in nums]


def _num_that_fit(sizes: Sequence[int]) -> int:
    """How many of the first entries a page takes: one at least."""
    total = 0
    for k, size in enumerate(sizes):
        total += size
        if total > MAX_PAGE_BYTES and k:
            return k
    return max(1, len(sizes))
