"""/v1/presets: options of responses under a name, each key's own."""

from typing import Any

import httpx
import pytest

from llamastream.config import ServeSettings
from llamastream.keys import digest_of
from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

SETTINGS = {
    "instructions": "Speak French.",
    "temperature": 0.5,
    "seed": 2**64 - 1,
    "truncation": "auto",
}
SCHEMA = {"type": "json_schema", "name": "a", "strict": True, "schema": {"type": "object"}}


async def save(client: httpx.AsyncClient, name: str, **settings: object) -> httpx.Response:
    return await client.post("/v1/presets", json={"name": name, "settings": settings})


async def test_a_preset_is_what_a_request_is_made_of(connect_stored: Connect) -> None:
    engine = FakeEngine(says("Oui."))
    client = await connect_stored(engine)
    made = (await save(client, "French/été", **SETTINGS)).json()
    assert made["object"] == "preset" and made["settings"] == SETTINGS
    assert (await client.get(f"/v1/presets/{made['id']}")).json() == made
    (listed,) = (await client.get("/v1/presets")).json()["data"]
    assert listed == made
    body = {"model": "demo", "input": "Yes?", **listed["settings"]}
    assert (await client.post("/v1/responses", json=body)).status_code == 200
    assert b"Speak French." in bytes(i for i in engine.submitted[0].prompt_ids if i < 256)
    assert engine.submitted[0].sampling.seed == 2**64 - 1
    again = (await save(client, "French/été", temperature=1)).json()
    assert again == made | {"settings": {"temperature": 1}}
    deleted = await client.delete(f"/v1/presets/{made['id']}")
    assert deleted.json() == {"id": made["id"], "object": "preset.deleted", "deleted": True}
    assert (await client.get("/v1/presets")).json()["data"] == []
    assert (await client.delete(f"/v1/presets/{made['id']}")).status_code == 404


async def test_a_key_sees_its_own_and_pays_for_them(connect_stored: Connect, tmp_path: Any) -> None:
    keys = "".join(
        f'[[keys]]\nname = "{name}"\nsha256 = "{digest_of(name).hex()}"\n'
        "[keys.limits]\nmax_stored_bytes = 2000\n"
        for name in ("alice", "bob")
    )
    (tmp_path / "keys.toml").write_text(keys)
    settings = ServeSettings(api_keys_file=tmp_path / "keys.toml")
    client = await connect_stored(FakeEngine(says("x")), settings)
    assert (await client.get("/v1/presets")).status_code == 401
    client.headers["Authorization"] = "Bearer alice"
    made = (await save(client, "mine", instructions="x" * 2000)).json()
    assert (await save(client, "more")).status_code == 429
    client.headers["Authorization"] = "Bearer bob"
    assert (await client.get("/v1/presets")).json()["data"] == []
    assert (await client.get(f"/v1/presets/{made['id']}")).status_code == 404
    assert (await save(client, "mine")).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a"}, "settings"),
        ({"name": "", "settings": {}}, "name"),
        ({"name": "x" * 101, "settings": {}}, "name"),
        ({"name": "a\0b", "settings": {}}, "name"),
        ({"name": "a", "settings": []}, "settings"),
        ({"name": "a", "settings": {"instructions": "é" * 2**15}}, "settings"),
        ({"name": "a", "settings": {"input": "hi"}}, "settings.input"),
        ({"name": "a", "settings": {"temperatur": 1}}, "temperatur"),
        ({"name": "a", "settings": {"temperature": 101}}, "temperature"),
        ({"name": "a", "settings": {"tools": [{"type": "web_search"}]}}, "tools[0]"),
        ({"name": "a", "settings": {"text": {"format": SCHEMA | {"schema": 1}}}}, None),
        ({"name": "a", "settings": {}, "id": "preset_1"}, "id"),
    ],
)
async def test_what_no_request_could_use_is_refused(
    connect_stored: Connect, body: dict[str, Any], param: str | None
) -> None:
    client = await connect_stored(FakeEngine(says("x")))
    refused = await client.post("/v1/presets", json=body)
    assert refused.status_code == 400
    if param is not None:
        assert refused.json()["error"]["param"] == param
    assert (await client.get("/v1/presets")).json()["data"] == []
