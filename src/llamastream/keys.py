"""API keys: what is known of them, where from, and which key a text is.

A key's text is never kept, only its SHA-256. Its name is what logs and metrics may show; its scope
is what it opens: stored answers and conversations, the prefix cache, its share of the engine. The
invariant: a file that cannot be read changes nothing, so what was right once goes on.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from llamastream.config import API_KEYS_FILE
from llamastream.errors import ConfigError, requirement
from llamastream.settings import Settings

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 4 << 20  # more than 10,000 keys
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class KeysSettings(Settings):
    """Where keys are kept."""

    api_keys_file: Path | None = API_KEYS_FILE


class Limits(BaseModel):
    """What a key may have; None does not limit."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    max_requests: int | None = Field(
        default=None, ge=0, description="Answers in progress, each choice for itself."
    )
    max_waiting: int | None = Field(
        default=None, ge=0, description="Of these, answers whose first token is to come."
    )
    max_tokens_per_minute: int | None = Field(
        default=None,
        ge=0,
        description="Tokens of prompts, but for those in the prefix cache, and of answers.",
    )
    max_stored_responses: int | None = Field(
        default=None, ge=0, description="Answers in the store."
    )
    max_stored_bytes: int | None = Field(
        default=None, ge=0, description="Size of what is stored: answers and conversations."
    )

    @classmethod
    def load(cls, flags: Mapping[str, Any], _toml: Mapping[str, Any]) -> Self:
        """From flags alone: a file of options holds for all keys, and these for one."""
        return cls(**{name: flags[name] for name in cls.model_fields if name in flags})


NO_LIMITS = Limits()


class KeyEntry(BaseModel):
    """A key as the file has it. `scope` is by default what the same key opens with --api-key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Name
    sha256: Digest
    scope: Name | None = None
    admin: bool = False  # may read /metrics
    limits: Limits = NO_LIMITS


class KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    keys: tuple[KeyEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    digest: bytes
    scope: str
    is_admin: bool = False
    limits: Limits = NO_LIMITS

    @classmethod
    def of_entry(cls, entry: KeyEntry) -> Self:
        return cls(
            entry.name,
            bytes.fromhex(entry.sha256),
            entry.scope or scope_of(entry.sha256),
            entry.admin,
            entry.limits,
        )


ANONYMOUS = Key("", b"", "", is_admin=True)
"""Everybody, where no keys are asked for."""


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def scope_of(sha256: str) -> str:
    """The scope of a key that is given none."""
    return sha256[:16]


def parse_keys(text: str, where: str) -> tuple[KeyEntry, ...]:
    """The entries of a file of keys. Raises ConfigError.

    A file without a line is one that is being written: even without keys ours has a comment.
    """
    if not text.strip():
        raise ConfigError(f"{where} is empty.")
    try:
        entries = KeysFile.model_validate(_lists_as_tuples(tomllib.loads(text))).keys
    except ValidationError as error:
        problem = error.errors(include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{where}: {place} {requirement(problem['msg'])}.") from None
    except (ValueError, RecursionError) as error:  # of tomllib
        raise ConfigError(f"{where} is not valid TOML: {error}.") from None
    for field in ("name", "sha256"):
        values = [getattr(entry, field) for entry in entries]
        if twice := {value for value in values if values.count(value) > 1}:
            raise ConfigError(f"{where}: {field} must be unique. Twice: {sorted(twice)[0]}.")
    return entries


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} must have <= {MAX_FILE_BYTES} bytes.")
        return parse_keys(data.decode(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8.") from None


class Keys:
    """The keys that are accepted now. Without any source of keys, everybody is anonymous."""

    def __init__(self, options: Iterable[str] = (), path: Path | None = None) -> None:
        """options: keys in clear, of the command line. path: a file that is read again when it
        changes. Raises ConfigError if it cannot be used now."""
        self._path = path
        self._reading = asyncio.Lock()
        self._secret = secrets.token_bytes(32)
        keys = list(dict.fromkeys(options))
        if not all(key.isascii() and key.isprintable() for key in keys):
            raise ConfigError(
                "--api-key (or LLAMASTREAM_API_KEY) must hold printable ASCII characters alone: "
                "no client can send others in a header."
            )
        given = list(map(digest_of, keys))
        self._options = [
            Key(
                f"api-key-{number}",
                digest,
                scope_of(digest.hex()),
                is_admin=len(given) == 1 and path is None,  # nobody else has one
            )
            for number, digest in enumerate(given, 1)
        ]
        self._stamp = self._stat()
        self._use(() if path is None else read_keys(path))

    @property
    def are_required(self) -> bool:
        return bool(self._options) or self._path is not None

    def find(self, given: str) -> Key | None:
        """The key that `given` is. Takes as long for a wrong one as for a right one."""
        digest = digest_of(given)
        # Where a table is looked at depends on a secret, so its time tells nothing of the keys.
        key = self._by_tag.get(self._tag(digest))
        known = digest if key is None else key.digest
        return key if hmac.compare_digest(known, digest) else None

    def holds(self, key: Key) -> bool:
        """Whether a key that was found earlier is still accepted, with whatever name and limits."""
        return not self.are_required or self._tag(key.digest) in self._by_tag

    def of_scope(self, scope: str) -> Key | None:
        """The first key that opens `scope`: its name and limits hold for all that do."""
        return self._by_scope.get(scope)

    async def refresh(self) -> None:
        """Read the file again if it has changed. One that cannot be used changes nothing."""
        if self._path is None or self._stat() == self._stamp:
            return
        async with self._reading:
            stamp = self._stat()
            if stamp == self._stamp:
                return
            try:
                entries = await asyncio.to_thread(read_keys, self._path)
            except ConfigError as error:
                logger.warning("%s The keys that were read before stay in force.", error.message)
            else:
                self._use(entries)
                logger.info("read api keys again: %d", len(entries))
            self._stamp = stamp  # if it has changed meanwhile, the next call sees that

    def _use(self, entries: Iterable[KeyEntry]) -> None:
        """Take these and the ones of the command line. The file's word on a key goes first."""
        keys = [*map(Key.of_entry, entries), *self._options]
        self._by_tag = {self._tag(key.digest): key for key in reversed(keys)}
        self._by_scope = {key.scope: key for key in reversed(keys)}

    def _tag(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=16).digest()

    def _stat(self) -> tuple[int, ...] | None:
        """What differs when the file was written or replaced; None when it is not there."""
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _lists_as_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """TOML has lists; what is checked strictly has tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
