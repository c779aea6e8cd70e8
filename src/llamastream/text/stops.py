"""Cutting a text stream at stop strings without ever showing one.

The invariant: what is visible does not depend on how the text was cut into pieces, and no more is
held back than the longest suffix that may still become a stop string.
"""

from collections.abc import Sequence

from llamastream.errors import InvalidRequest


class StopMatcher:
    """Watches one answer for any of `stops`.

    The stop string that is complete first wins; among those complete at the same character, the one
    listed first. `include` shows the stop string itself too.
    """

    __slots__ = ("_held", "_include", "_longest", "_matched", "_starts", "_stops")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        if "" in stops:
            raise InvalidRequest("stop must hold no empty string. Given: ''.", param="stop")
        self._stops = tuple(stops)
        self._include = include
        self._starts = frozenset(stop[0] for stop in stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._matched

    def add(self, text: str) -> tuple[str, bool]:
        """Take more text; return what becomes visible and whether a stop string is complete.

        After a match nothing more becomes visible.
        """
        if self._matched is not None:
            return "", True
        if not self._stops or not text:
            return text, False
        text = self._held + text
        found = self._find(text)
        if found is not None:
            start, self._matched = found
            self._held = ""
            return text[: start + len(self._matched) if self._include else start], True
        hold = self._hold_from(text)
        self._held = text[hold:]
        return text[:hold], False

    def finish(self) -> str:
        """Flush the end: what was held back became no stop string."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> tuple[int, str] | None:
        """Start and stop string of the earliest complete match."""
        starts = ((text.find(stop), stop) for stop in self._stops)
        found = [(start, stop) for start, stop in starts if start >= 0]
        return min(found, key=lambda match: match[0] + len(match[1]), default=None)

    def _hold_from(self, text: str) -> int:
        """Where the longest suffix starts that is a proper prefix of a stop string."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._starts and any(
                stop.startswith(text[start:]) for stop in self._stops
            ):
                return start
        return len(text)
