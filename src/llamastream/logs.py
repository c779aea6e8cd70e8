"""Logging to stderr, one line per record. Records hold ids, counts and times, never user text."""

import logging
from typing import Literal

Level = Literal["debug", "info", "warning", "error"]


def configure_logging(level: Level = "info") -> None:
    """Send this package's records, and uvicorn's warnings, to stderr. Replaces earlier handlers."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING, force=True
    )
    logging.getLogger("llamastream").setLevel(level.upper())
