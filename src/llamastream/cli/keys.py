"""`llamastream keys`: the file of API keys that `serve --api-keys-file` reads.

The file is written as a whole, in the place of the old one, and readable by its owner only. What a
person wrote in it, comments too, stays as it is.
"""

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

import typer
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from llamastream.cli.options import with_settings
from llamastream.errors import ConfigError
from llamastream.keys import (
    KeyEntry,
    KeysSettings,
    Limits,
    digest_of,
    parse_keys,
    read_keys,
    scope_of,
)

HEADING = "# API keys of llamastream: docs/deployment.md. `llamastream keys` writes this file.\n"
PREFIX = "ls-"
# Where the table of a key begins in the file.
TABLE = re.compile(r"^(?=[ \t]*\[\[[ \t]*keys[ \t]*\]\])", re.MULTILINE)

keys = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Look after the file of API keys (--api-keys-file).",
)
Name = Annotated[str, typer.Argument(help="The key's name, as logs show it.", metavar="NAME")]


@keys.command()
@with_settings(KeysSettings, Limits)
def add(
    settings: KeysSettings,
    limits: Limits,
    name: Name,
    same_as: Annotated[
        str | None,
        typer.Option(help="Name of a key whose stored data this one opens too.", metavar="NAME"),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may read /metrics.")] = False,
) -> None:
    """Make a key and print it, this once. A server that runs takes it at once."""
    key = PREFIX + secrets.token_urlsafe(32)
    sha256 = digest_of(key).hex()

    def change(text: str, entries: tuple[KeyEntry, ...]) -> str:
        scope = scope_of(sha256)
        if same_as is not None:
            other = _find(entries, same_as)
            scope = other.scope or scope_of(other.sha256)
        lines = ["", "[[keys]]", f'name = "{name}"', f'sha256 = "{sha256}"', f'scope = "{scope}"']
        lines += ["admin = true"] if admin else []
        given = limits.model_dump(exclude_none=True)
        lines += (
            ["[keys.limits]", *(f"{n} = {value}" for n, value in given.items())] if given else []
        )
        return text.rstrip("\n") + "\n" + "\n".join(lines) + "\n"

    _change(_path(settings), change, lambda entries: entries[-1].name == name)
    typer.echo(key)


@keys.command("list")
@with_settings(KeysSettings)
def list_(settings: KeysSettings) -> None:
    """Show the keys by name, with their scopes and limits."""
    table = Table("name", "scope", "limits", box=None)
    for entry in read_keys(_path(settings)):
        limits = [f"{n}={value}" for n, value in entry.limits.model_dump(exclude_none=True).items()]
        what = ["admin"] if entry.admin else []
        table.add_row(entry.name, entry.scope or scope_of(entry.sha256), " ".join(what + limits))
    Console().print(table)


@keys.command()
@with_settings(KeysSettings)
def revoke(settings: KeysSettings, name: Name) -> None:
    """Refuse a key from its next request on. What it stored stays; answers in progress end."""

    def change(text: str, entries: tuple[KeyEntry, ...]) -> str:
        index = entries.index(_find(entries, name))
        before, *tables = TABLE.split(text)
        return "".join([before, *(table for n, table in enumerate(tables) if n != index)])

    _change(_path(settings), change, lambda entries: all(entry.name != name for entry in entries))
    typer.echo(f"Revoked {name}.")


def _path(settings: KeysSettings) -> Path:
    if settings.api_keys_file is None:
        raise ConfigError(
            "Which file? Give --api-keys-file FILE (or LLAMASTREAM_API_KEYS_FILE), as to `serve`."
        )
    return settings.api_keys_file


def _find(entries: tuple[KeyEntry, ...], name: str) -> KeyEntry:
    found = next((entry for entry in entries if entry.name == name), None)
    if found is None:
        known = ", ".join(entry.name for entry in entries) or "none"
        raise ConfigError(f"There is no key named {name}. Known: {known}.")
    return found


def _change(
    path: Path,
    change: Callable[[str, tuple[KeyEntry, ...]], str],
    is_done: Callable[[tuple[KeyEntry, ...]], bool],
) -> None:
    """Write what `change` makes of the file's text. Raises ConfigError, with nothing written."""
    path = path.resolve()  # a link stays one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two of us at once must not lose a key
            text = path.read_text() if path.exists() else HEADING
            changed = change(text, parse_keys(text, str(path)))
            if not is_done(parse_keys(changed, f"{path}, if it were changed,")):
                raise ConfigError(f"{path} is written in a way that is best changed by hand.")
            _write(path, changed)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None


def _write(path: Path, text: str) -> None:
    """Replace the file, for its owner only. A reader sees the old one or the new one."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():  # also when an administrator writes it for the server
                owner = path.stat()
                with suppress(PermissionError):
                    os.chown(file.name, owner.st_uid, owner.st_gid)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
