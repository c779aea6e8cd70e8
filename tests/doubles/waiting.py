"""Waiting for a condition in the same event loop, instead of for a time."""

import asyncio
from collections.abc import Callable

LIMIT_S = 60.0  # a test that hangs fails by this, and a slow machine not


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition()` holds."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
