"""API keys: which are known, what they open, and the file that they are read from."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from llamastream.api.http.auth import KeyRing
from llamastream.errors import ConfigError, Unauthorized
from llamastream.keys import Keys, Limits, digest_of

ALICE = f'''
# Alice's laptop.
[[keys]]
name = "alice"
sha256 = "{digest_of("alice").hex()}"
'''
BOB = f'''
[[keys]]
name = "bob"
sha256 = "{digest_of("bob").hex()}"
scope = "team"
admin = true
[keys.limits]
max_requests = 3
'''
EVE = ALICE.replace("alice", "eve").replace(digest_of("alice").hex(), digest_of("eve").hex())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(ALICE + BOB)
    return path


@pytest.mark.parametrize("key", ["ключ", "clé", "a\x00b", "a\nb"])
def test_a_key_that_no_client_can_send_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        Keys(["good", key])
    assert key not in caught.value.message


def test_without_keys_everybody_is_anonymous() -> None:
    ring = KeyRing(Keys())
    assert ring.scope_of_header("Bearer EMPTY") == ring.scope_of_header(None) == ""


def test_a_keys_scope_lasts_and_does_not_show_the_key() -> None:
    scope = KeyRing(Keys(["alice", "bob"])).scope_of_header("bearer alice")
    assert scope == KeyRing(Keys(["alice"])).scope_of_header("Bearer alice")
    assert scope != KeyRing(Keys(["bob"])).scope_of_header("Bearer bob")
    assert "alice" not in scope


@pytest.mark.parametrize("header", [None, "", "alice", "Basic alice", "Bearer ", "Bearer alic"])
def test_no_or_wrong_key_is_refused(header: str | None, file: Path) -> None:
    for keys in (Keys(["alice"]), Keys(path=file)):
        with pytest.raises(Unauthorized):
            KeyRing(keys).scope_of_header(header)


def test_a_key_that_moves_into_the_file_opens_what_it_did(file: Path) -> None:
    option, moved = Keys(["alice"]).find("alice"), Keys(path=file).find("alice")
    assert option is not None and moved is not None
    assert moved.scope == option.scope
    assert (moved.name, moved.limits) == ("alice", Limits())


def test_a_key_of_the_file_has_what_is_written_there(file: Path) -> None:
    key = Keys(["eve"], file).find("bob")
    assert key is not None
    assert (key.name, key.scope, key.is_admin, key.limits) == (
        "bob",
        "team",
        True,
        Limits(max_requests=3),
    )
    assert Keys(["bob"], file).find("bob") == key  # the file's word goes first


def test_the_keys_of_the_command_line_have_names_that_do_not_show_them() -> None:
    keys = Keys(["alice", "bob"])
    found = [keys.find(key) for key in ("alice", "bob")]
    assert [key.name for key in found if key] == ["api-key-1", "api-key-2"]


def test_a_lone_key_of_the_command_line_is_the_operators(file: Path) -> None:
    def is_admin(keys: Keys) -> bool:
        key = keys.find("eve")
        assert key is not None
        return key.is_admin

    assert is_admin(Keys(["eve"]))
    assert not is_admin(Keys(["eve", "bob"]))
    assert not is_admin(Keys(["eve"], file))


def test_a_change_of_the_file_holds_from_the_next_request_on(file: Path) -> None:
    ring = KeyRing(Keys(path=file))
    alice = ring.key_of_header("Bearer alice")
    file.write_text(BOB + EVE)
    asyncio.run(ring.refresh())
    assert ring.key_of_header("Bearer eve").name == "eve"
    with pytest.raises(Unauthorized):
        ring.key_of_header("Bearer alice")
    with pytest.raises(Unauthorized, match="revoked"):
        asyncio.run(ring.check(alice))


def test_a_key_that_is_renamed_goes_on(file: Path) -> None:
    ring = KeyRing(Keys(path=file))
    alice = ring.key_of_header("Bearer alice")
    file.write_text(ALICE.replace('"alice"', '"alice-1"') + BOB)
    asyncio.run(ring.check(alice))


DAMAGED = {
    "empty": "",
    "half a line": ALICE + BOB[:30],
    "half a digest": ALICE[:-20],
    "no digest": '[[keys]]\nname = "alice"\n',
    "no TOML": "{",
    "twice": ALICE + ALICE,
    "same key": ALICE + ALICE.replace('"alice"', '"alice-2"'),
    "unknown field": ALICE + "level = 5\n",
    "unknown limit": ALICE + "[keys.limits]\nmax_request = 5\n",
    "negative limit": ALICE + "[keys.limits]\nmax_requests = -1\n",
    "kind of a limit": ALICE + "[keys.limits]\nmax_requests = true\n",
    "other things": "a = 1\n",
    "name with spaces": ALICE.replace('"alice"', '"a b"'),
    "digits": "a = " + "9" * 5000,
    "depth": "a = " + "[" * 5000,
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_changes_nothing_and_is_told_of_once(
    file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys(path=file)
    file.write_text(text)
    for _ in range(3):
        asyncio.run(keys.refresh())
        assert keys.find("alice") is not None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(file) in warnings[0].message
    file.write_text(BOB)
    asyncio.run(keys.refresh())
    assert keys.find("alice") is None and keys.find("bob") is not None


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_server_does_not_start_with_a_damaged_file(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.toml"):
        Keys(path=file)


def test_a_file_that_is_gone_or_no_text_changes_nothing(file: Path) -> None:
    keys = Keys(path=file)
    file.unlink()
    asyncio.run(keys.refresh())
    assert keys.find("alice") is not None
    file.write_bytes(b"\xff\xfe")
    asyncio.run(keys.refresh())
    assert keys.find("alice") is not None


def test_a_file_without_keys_lets_nobody_in(file: Path) -> None:
    ring = KeyRing(Keys(path=file))
    file.write_text("# none\n")
    asyncio.run(ring.refresh())
    for header in (None, "Bearer alice"):
        with pytest.raises(Unauthorized):
            ring.key_of_header(header)


def test_a_file_in_place_of_another_of_the_same_size_is_seen(file: Path) -> None:
    keys = Keys(path=file)
    stat = file.stat()
    other = file.with_suffix(".new")
    other.write_text((ALICE + BOB).replace('"bob"', '"rob"'))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    asyncio.run(keys.refresh())
    key = keys.find("bob")
    assert key is not None and key.name == "rob"
