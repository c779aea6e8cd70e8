"""The chat page's files over HTTP. What they do in a browser is in tests/page."""

import gzip
import re
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from llamastream.api.http.page import is_built, page_routes
from llamastream.config import ServeSettings
from tests.api.conftest import Connect
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

HTML = "<!doctype html><title>page</title>"
SCRIPT = "console.log('hello');" * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web" / "assets").mkdir(parents=True)
    (tmp_path / "web" / "index.html").write_text(HTML)
    (tmp_path / "web" / "assets" / "index-abc.js").write_text(SCRIPT)
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "web"


@pytest.fixture
def client(folder: Path) -> TestClient:
    return TestClient(Starlette(routes=page_routes(folder)))


def test_the_page_may_load_nothing_but_its_own_files(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.text == HTML
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"unsafe|data:|http|\*", policy)


def test_assets_are_kept_for_ever_since_their_names_change(client: TestClient) -> None:
    answer = client.get("/assets/index-abc.js")
    assert answer.text == SCRIPT
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]


def test_a_copy_that_is_current_is_not_sent_again(client: TestClient) -> None:
    etag = client.get("/").headers["etag"]
    again = client.get("/", headers={"if-none-match": f'"other", W/{etag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


def test_files_are_compressed_for_who_takes_it(client: TestClient) -> None:
    with client.stream("GET", "/assets/index-abc.js") as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(raw) == int(answer.headers["content-length"]) < len(SCRIPT)
    assert gzip.decompress(raw).decode() == SCRIPT
    plain = client.get("/assets/index-abc.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == SCRIPT


def test_a_head_has_no_body(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/assets/",
        "/assets/index.html",
        "/assets/..%2Findex.html",
        "/assets/..%2F..%2Fsecret.txt",
        "/assets/%2e%2e/%2e%2e/secret.txt",
        "/assets/....//secret.txt",
        "/assets/nothing.js",
        "/index.html",
    ],
)
def test_no_path_leads_anywhere_else(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_a_page_that_is_not_built_says_how(tmp_path: Path) -> None:
    answer = TestClient(Starlette(routes=page_routes(tmp_path / "nothing"))).get("/")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/plain")
    assert "make web" in answer.text


async def test_the_page_needs_no_key_and_its_requests_do(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("x")), ServeSettings(api_key="secret"))
    answers = [await client.get(path) for path in ("/", "/assets/none.js", "/v1/models")]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200 if is_built() else 404, 404, 401]
    for path in (
        "/assets/../v1/models",
        "/assets/%2e%2e/v1/models",
        "/assets/%2e%2e%2fv1%2fmodels",
    ):
        url = httpx.URL(client.base_url).copy_with(raw_path=path.encode())
        assert (await client.get(url)).status_code in (401, 404)


async def test_a_server_without_the_page_has_no_root(connect_stored: Connect) -> None:
    client = await connect_stored(FakeEngine(says("x")), ServeSettings(page=False))
    answer = await client.get("/")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
