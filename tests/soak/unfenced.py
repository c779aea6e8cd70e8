"""`serve` that does not look whether this server still lives: a double, to measure what that costs.

python -m tests.soak.unfenced serve ...
"""

from sqlalchemy import Connection

from llamastream.cli.main import run
from llamastream.store import journal, writer

# The statement of before, with a parameter in place of the row of `servers`.
INSERT_STEP = (
    "INSERT INTO journal (seq, tokens, logprobs, checksum, owner) VALUES ({0}, {0}, {0}, {0}, {0})"
)


def unfenced(conn: Connection, name: str) -> None: ...


def unfence() -> None:
    journal._INSERT_STEP = INSERT_STEP
    writer.check_lives = unfenced  # type: ignore[attr-defined]


if __name__ == "__main__":
    unfence()
    run()
