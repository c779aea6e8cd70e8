"""Responses that continue each other, by `previous_response_id`."""

from typing import Any

from sqlalchemy import CTE, Connection, Select, select

from llamastream.errors import InvalidRequest, NotFound, quoted
from llamastream.records import Status
from llamastream.store.rows import find
from llamastream.store.tables import items, responses


def chain_items(conn: Connection, id: str, scope: str, *, max_links: int) -> Select[Any]:
    """Input and output items of a response and all it continues, oldest first.

    Raises NotFound when one of these is gone, InvalidRequest when `id` has not ended or there are
    more than `max_links`.
    """
    of_id = find(conn, "response", id, scope, responses.c.status)
    if of_id.status == Status.IN_PROGRESS:
        raise InvalidRequest(
            f"Response {quoted(id)} is still in progress: continue it when it has ended.",
            param="previous_response_id",
        )
    chain = _chain(id, scope)
    links = conn.execute(select(chain).limit(max_links + 1)).all()
    if len(links) > max_links:
        raise InvalidRequest(
            f"A response may continue <= {max_links} others. Given: more, with {quoted(id)}. "
            "Send the messages that matter as input instead.",
            param="previous_response_id",
        )
    for missing in {link.previous_response_id for link in links} - {link.id for link in links}:
        if missing is not None:
            raise NotFound(
                f"Response {quoted(missing)}, which {quoted(id)} continues, not found: it was "
                "deleted or has expired. Send its messages as input instead.",
                param="previous_response_id",
            )
    order = (items.c.response_num, items.c.part, items.c.num)
    rows = select(items).where(items.c.response_num.in_(select(chain.c.num)))
    return rows.order_by(*order)


def first_of_chain(conn: Connection, id: str, scope: str) -> str:
    """The response with which a chain begins that ends with `id`."""
    links = conn.execute(select(_chain(id, scope))).all()
    continued = {link.id: link.previous_response_id for link in links}
    while (before := continued.pop(id, None)) in continued:
        id = before
    return id


def _chain(id: str, scope: str) -> CTE:
    """A response and all it continues."""
    names = (responses.c.num, responses.c.id, responses.c.previous_response_id)
    last = select(*names).where(responses.c.id == id, responses.c.scope == scope)
    chain = last.cte("chain", recursive=True)
    # UNION and not UNION ALL: a row is followed once, whatever an imported file may hold.
    return chain.union(
        select(*names).where(
            responses.c.id == chain.c.previous_response_id, responses.c.scope == scope
        )
    )
