"""A conversation summed up in one item, and how long a prompt is."""

from typing import Any

import pytest

from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

SAID = [
    {"role": "user", "content": "We launch on Tuesday."},
    {"role": "assistant", "content": "Understood."},
]


def prompt_of(engine: FakeEngine, number: int) -> str:
    return bytes(i for i in engine.submitted[number].prompt_ids if i < 256).decode()


async def test_what_was_said_is_summed_up_and_gone_on_with(connect_stored: Connect) -> None:
    engine = FakeEngine(says("Launch: Tuesday, é."))
    client = await connect_stored(engine)
    first = (await client.post("/v1/responses", json={"model": "demo", "input": SAID})).json()
    asked = {"model": "demo", "previous_response_id": first["id"], "input": "And support?"}
    compact = (await client.post("/v1/responses/compact", json=asked)).json()
    assert compact["object"] == "response.compaction" and compact["usage"]["output_tokens"] > 0
    (item,) = compact["output"]
    assert item["type"] == "compaction" and "Tuesday" not in item["encrypted_content"]
    assert "We launch on Tuesday." in prompt_of(engine, 1)
    assert "And support?" in prompt_of(engine, 1) and "Summarise" in prompt_of(engine, 1)
    assert (await client.get(f"/v1/responses/{compact['id']}")).status_code == 404
    given = [*compact["output"], {"role": "user", "content": "Go on."}]
    answer = await client.post("/v1/responses", json={"model": "demo", "input": given})
    assert answer.json()["status"] == "completed"
    text = prompt_of(engine, 2)
    assert "Launch: Tuesday, é." in text and "Go on." in text and "We launch" not in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"temperature": 1}, "temperature"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        (
            {"input": [{"type": "compaction", "encrypted_content": "?"}]},
            "input[0].encrypted_content",
        ),
        ({"input": [{"type": "compaction"}]}, "input[0].encrypted_content"),
    ],
)
async def test_a_bad_compaction_is_refused_by_name(
    connect_stored: Connect, fields: dict[str, Any], param: str
) -> None:
    client = await connect_stored(FakeEngine(says("x")))
    body = {"model": "demo", "input": SAID} | fields
    answer = await client.post("/v1/responses/compact", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_prompt_is_counted_and_nothing_is_generated(connect_stored: Connect) -> None:
    engine = FakeEngine(says("x"))
    client = await connect_stored(engine)
    body = {"input": SAID, "instructions": "Be short."}
    counted = (await client.post("/v1/responses/input_tokens", json=body)).json()
    assert not engine.submitted
    answer = (await client.post("/v1/responses", json={"model": "demo"} | body)).json()
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": answer["usage"]["input_tokens"],
    }
    wrong = await client.post("/v1/responses/input_tokens", json=body | {"model": "other"})
    assert wrong.status_code == 404


async def test_turns_are_taken_also_where_the_user_spoke_last(connect_stored: Connect) -> None:
    engine = FakeEngine(says("x"))
    client = await connect_stored(engine)
    for said in (SAID, [*SAID, {"role": "user", "content": "And support?"}]):
        body = {"model": "demo", "input": said}
        assert (await client.post("/v1/responses/compact", json=body)).status_code == 200
        assert prompt_of(engine, -1).count("Summarise") == 1
    turns = [prompt_of(engine, number).split("Summarise")[0] for number in (0, 1)]
    assert turns[1].endswith("And support?\n\n") and turns[0].count("user") == 2
    assert turns[1].count("user") == 2
