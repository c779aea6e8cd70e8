"""/openapi.json describes every route, and the server does what it says, whatever it is sent.

At length, against any server: the same command with `--max-examples 1000` and without a seed.
"""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from llamastream.api.app import create_app
from llamastream.api.http.openapi import PATH, ApiRoute
from llamastream.config import ServeSettings
from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import make_responses, make_service, says

NOT_DESCRIBED = {PATH, "/", "/assets/{name}"}  # itself, and the files of the page
FUZZ = (
    *(sys.executable, "-m", "schemathesis.cli", "run", "--no-color"),
    *("--max-examples", "2", "--seed", "1", "--generation-deterministic"),
    *("--continue-on-failure", "--suppress-health-check", "all"),
    # Not all that makes a request good can be said in a schema: a context's length, options that
    # exclude each other.
    *("--exclude-checks", "positive_data_acceptance"),
)


def test_every_route_is_described(tmp_path: Path) -> None:
    answers = make_service(FakeEngine(says("ok")))
    app = create_app(answers, ServeSettings(), make_responses(answers, tmp_path))
    routes = [route for route in app.routes if isinstance(route, Route)]
    plain = {route.path for route in routes if not isinstance(route, ApiRoute)}
    assert plain == NOT_DESCRIBED


async def test_the_document_needs_no_key_and_says_what_does(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")), ServeSettings(api_key="secret"))
    document = (await client.get(PATH)).json()
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "401" in document["paths"]["/v1/models"]["get"]["responses"]
    assert "/v1/responses" not in document["paths"]  # nothing is stored here


async def test_bodies_are_described_by_what_checks_them(connect: Connect) -> None:
    client = await connect(FakeEngine(says("ok")))
    schemas = (await client.get(PATH)).json()["components"]["schemas"]
    chat = schemas["ChatCompletionBody"]
    assert chat["required"] == ["model", "messages"]
    assert chat["properties"]["model"] == {"enum": ["demo"]}
    limited = chat["properties"]["n"]["anyOf"][0]["anyOf"][0]
    assert (limited["minimum"], limited["maximum"]) == (1, 128)
    assert {"enum": ["none", "auto"]} in chat["properties"]["function_call"]["anyOf"]
    assert chat["additionalProperties"] == {"$ref": "#/components/schemas/Nothing"}


@pytest.mark.slow
async def test_the_server_does_what_the_document_says(
    connect_stored: Connect, tmp_path: Path
) -> None:
    """schemathesis sends what the document allows and what it forbids, to every route."""
    client = await connect_stored(FakeEngine(says("ok 😀")))
    url = httpx.URL(client.base_url).join(PATH)
    fuzz = await asyncio.create_subprocess_exec(
        *(*FUZZ, str(url)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,  # where it leaves what it found
    )
    try:
        output, _ = await fuzz.communicate()
    finally:
        if fuzz.returncode is None:
            fuzz.kill()
    assert fuzz.returncode == 0, output.decode()
    assert b" passed" in output
