"""Damages the rows of a SQLite database, one cell at a time."""

import random
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

KEYS = dict.fromkeys(("responses", "items", "conversations", "presets"), "num") | {"journal": "seq"}
ODD = (None, 0, -1, 2**63 - 1, 1e300, "", "x", "{}", b"", b"\xff\xfe", bytes(40))


class Cell(NamedTuple):
    table: str
    column: str
    key: int


class Rows:
    def __init__(self, path: Path) -> None:
        self._conn = sqlite3.connect(path, isolation_level=None, timeout=30)
        self.cells = [
            Cell(table, column, row[0])
            for table, key in KEYS.items()
            for _, column, *_ in self._conn.execute(f"PRAGMA table_info({table})").fetchall()
            for row in self._conn.execute(f"SELECT {key} FROM {table}").fetchall()
            if column != key
        ]

    def damage(self, cell: Cell, draw: random.Random) -> Any:
        """Gives what was there. Raises sqlite3.IntegrityError for what the database refuses."""
        table, column, key = cell
        row = f"SELECT {column} FROM {table} WHERE {KEYS[table]} = ?"
        (old,) = self._conn.execute(row, (key,)).fetchone()
        self.put(cell, damaged(old, draw))
        return old

    def put(self, cell: Cell, value: Any) -> None:
        table, column, key = cell
        change = f"UPDATE {table} SET {column} = ? WHERE {KEYS[table]} = ?"
        self._conn.execute(change, (value, key))

    def close(self) -> None:
        self._conn.close()


def damaged(value: Any, draw: random.Random) -> Any:
    """What a value may become: with a flipped bit, cut short, overwritten, of another kind."""
    kind = draw.randrange(7)
    if kind == 0 or value is None:
        return draw.choice(ODD)
    if isinstance(value, int | float):
        return draw.choice((value + 1, -value, value * 1e9, f"{value}x", b"\x80"))
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    if not raw:
        return b"\x01"
    at = draw.randrange(len(raw))
    if kind == 1:
        raw = raw[:at]
    elif kind == 2:
        raw = raw[at + 1 :]
    elif kind == 3:
        raw[at:] = bytes(len(raw) - at)
    elif kind == 4:
        raw = bytearray(draw.randbytes(len(raw)))
    else:
        raw[at] ^= 1 << draw.randrange(8)
    return bytes(raw) if isinstance(value, bytes) else raw.decode("utf-8", "replace")
