"""What is damaged is refused in one line, whatever wire it came on. See `mutated_wire`."""

from pathlib import Path

import pytest

from tests.api.mutated_wire import SENDS, Send, frame, send_all

COUNT = 60


@pytest.mark.parametrize("send", SENDS)
async def test_what_is_damaged_is_refused_in_one_line(send: Send, tmp_path: Path) -> None:
    seen = await send_all(send, COUNT, tmp_path)
    assert sum(seen.values()) == COUNT
    if send is not frame:  # whose masks are drawn anew
        assert len(seen) > 1, seen  # some are refused, some still good
