"""What a web page may do to a server on its reader's machine: nothing."""

import json

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from llamastream.config import ServeSettings
from tests.api.conftest import Connect
from tests.api.raw import RawClient
from tests.api.sse import chat_body
from tests.api.test_responses_socket import open_socket
from tests.doubles.engine import FakeEngine
from tests.doubles.service import says

EVIL = "https://evil.example"
GOOD = "https://chat.example.org"
CHAT, STREAM = "/v1/chat/completions", "/stream?prompt=a&max_tokens=2&store=true"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}

Headers = dict[str, str] | list[tuple[str, str]]


async def send(server: httpx.AsyncClient, method: str, path: str, headers: Headers) -> int:
    body = json.dumps(chat_body()).encode() if method == "POST" else None
    return (await server.request(method, path, headers=headers, content=body)).status_code


def own(server: httpx.AsyncClient) -> str:
    return f"http://{server.base_url.host}:{server.base_url.port}"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(says("ok"))


@pytest.fixture
async def server(connect_stored: Connect, engine: FakeEngine) -> httpx.AsyncClient:
    """Without a key."""
    return await connect_stored(engine)


FOREIGN: list[tuple[str, str, Headers]] = [
    ("POST", CHAT, {"origin": EVIL, "content-type": "text/plain"}),
    ("POST", CHAT, {"origin": "null", "content-type": "application/x-www-form-urlencoded"}),
    ("POST", CHAT, {"origin": ""}),
    ("POST", CHAT, {"origin": "http://["}),
    ("POST", CHAT, {"origin": "http://127.0.0.1"}),  # another port
    ("POST", CHAT, {"origin": "http://localhost:1"}),
    ("POST", CHAT, {"origin": "file://"}),
    ("POST", CHAT, {"sec-fetch-site": "cross-site"}),
    ("POST", CHAT, {"sec-fetch-site": "same-site"}),  # another server on this machine
    ("POST", CHAT, {"sec-fetch-site": "whatever"}),
    ("POST", CHAT, LINK),
    ("POST", CHAT, [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")]),
    ("GET", STREAM, {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}),
    ("GET", STREAM, LINK),
    ("GET", STREAM, {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}),
    ("GET", STREAM, {"user-agent": FIREFOX}),  # one that is too old to say more
    ("HEAD", STREAM, {"user-agent": FIREFOX}),
    ("GET", STREAM, {"origin": EVIL}),
    ("GET", "/v1/conversations", {"origin": EVIL}),
    ("GET", "/health", {"sec-fetch-site": "cross-site", "sec-fetch-dest": "script"}),
    ("GET", "/", {**LINK, "sec-fetch-dest": "iframe"}),
    ("DELETE", "/v1/conversations/x", {"origin": EVIL}),
    ("OPTIONS", CHAT, {"origin": EVIL, "access-control-request-method": "POST"}),
]


@pytest.mark.parametrize("key", [None, "k"])
async def test_pages_of_other_origins_are_refused(
    connect_stored: Connect, engine: FakeEngine, key: str | None
) -> None:
    server = await connect_stored(engine, ServeSettings(api_key=key))
    for method, path, headers in FOREIGN:
        assert await send(server, method, path, headers) == 403, (method, path, headers)
    assert not engine.submitted


STRANGE_HOSTS = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "localhostx", "a b", ""),
    *("127.0.0.1.evil.example", "[::1", "127.1", "user@localhost"),
]


async def test_a_name_that_is_not_the_servers_is_refused(
    server: httpx.AsyncClient, engine: FakeEngine
) -> None:
    """A page whose name points to the loopback is of the same origin as what answers there."""
    for host in STRANGE_HOSTS:
        page = {"host": host, "sec-fetch-site": "same-origin", "origin": f"http://{host}"}
        for headers in ({"host": host}, page):
            assert await send(server, "GET", "/v1/conversations", headers) == 421, host
            assert await send(server, "GET", "/", headers) == 421, host
            assert await send(server, "POST", CHAT, headers) == 421, host
            assert await send(server, "DELETE", "/v1/conversations/x", headers) == 421, host
    assert not engine.submitted


async def test_two_hosts_are_refused(server: httpx.AsyncClient) -> None:
    async with RawClient(server.base_url) as raw:
        raw.send(b"GET /version HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert (await raw.read_until(b"\r\n")).startswith(b"HTTP/1.1 4")


async def test_loopback_names_and_addresses_are_the_servers(server: httpx.AsyncClient) -> None:
    names = ("localhost", "LocalHost:8000", "localhost.", "app.localhost", "127.0.0.1", "[::1]:80")
    for host in names:
        assert await send(server, "POST", CHAT, {"host": host}) == 200, host
        page = {"host": host, "origin": f"http://{host}"}
        assert await send(server, "POST", CHAT, page) == 200, host


async def test_allowed_hosts_are_the_servers(connect: Connect, engine: FakeEngine) -> None:
    settings = ServeSettings(allowed_hosts="chat.example.org, other.example")
    server = await connect(engine, settings)
    for host in ("chat.example.org", "Chat.Example.Org:443", "other.example"):
        assert await send(server, "POST", CHAT, {"host": host, "origin": f"https://{host}"}) == 200
    assert await send(server, "POST", CHAT, {"host": "evil.example"}) == 421
    anybody = await connect(FakeEngine(says("ok")), ServeSettings(allowed_hosts="*"))
    assert await send(anybody, "POST", CHAT, {"host": "any.example"}) == 200


async def test_with_a_key_any_name_will_do(connect: Connect, engine: FakeEngine) -> None:
    """A page that was let in by a name of its own has no key."""
    server = await connect(engine, ServeSettings(api_key="k"))
    bearer = {"authorization": "Bearer k", "host": "chat.example.org"}
    for more in ({}, {"origin": GOOD, "sec-fetch-site": "same-origin"}, {"origin": GOOD}):
        assert await send(server, "POST", CHAT, bearer | more) == 200


async def test_our_own_page_may(server: httpx.AsyncClient) -> None:
    for headers in (
        {"origin": own(server)},
        {"origin": own(server), "sec-fetch-site": "same-origin", "user-agent": FIREFOX},
        {"origin": GOOD, "sec-fetch-site": "same-origin"},  # a proxy has changed Host
        {"sec-fetch-site": "none"},
    ):
        assert await send(server, "POST", CHAT, headers) == 200
    assert await send(server, "GET", STREAM, {"sec-fetch-site": "same-origin"}) == 200
    for path in ("/version", "/health", "/v1/models"):
        assert await send(server, "GET", path, LINK | {"user-agent": FIREFOX}) == 200


async def test_who_is_no_browser_may_do_all(server: httpx.AsyncClient) -> None:
    for agent in ("curl/8.5.0", "Python/3.11 aiohttp/3.14", "OpenAI/Python 3", ""):
        assert await send(server, "POST", CHAT, {"user-agent": agent}) == 200
        assert await send(server, "GET", STREAM, {"user-agent": agent}) == 200


@pytest.mark.parametrize("origin", [GOOD, "chrome-extension://abcdef", "null"])
async def test_origins_that_were_named_may(
    connect: Connect, engine: FakeEngine, origin: str
) -> None:
    server = await connect(engine, ServeSettings(cors_origins=f"{origin},https://x.example"))
    headers = {"origin": origin, "sec-fetch-site": "cross-site"}
    answer = await server.post(CHAT, headers=headers, json=chat_body())
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert await send(server, "GET", "/stream?prompt=a&max_tokens=2", headers) == 200
    assert await send(server, "POST", CHAT, headers | {"origin": EVIL}) == 403
    asks = headers | {
        "access-control-request-method": "POST",
        "access-control-request-private-network": "true",
    }
    preflight = await server.options(CHAT, headers=asks)
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert (await server.options(CHAT, headers=asks | {"origin": EVIL})).status_code in (400, 403)


async def test_a_star_lets_all_origins_in(connect: Connect, engine: FakeEngine) -> None:
    server = await connect(engine, ServeSettings(cors_origins="*"))
    assert await send(server, "POST", CHAT, {"origin": EVIL, "sec-fetch-site": "cross-site"}) == 200
    assert await send(server, "POST", CHAT, {"host": "evil.example"}) == 421


SOCKETS: list[tuple[dict[str, str], int]] = [
    ({"origin": EVIL}, 403),
    ({"origin": "null"}, 403),
    ({"origin": ""}, 403),
    ({"origin": "http://["}, 403),
    ({"origin": "http://localhost:99999999"}, 403),
    ({"sec-fetch-site": "cross-site"}, 403),
    ({"host": "evil.example"}, 421),
    ({"host": "evil.example", "origin": "http://evil.example"}, 421),
]


async def test_sockets_obey_the_same_rules(server: httpx.AsyncClient) -> None:
    for headers, status in SOCKETS:
        with pytest.raises(InvalidStatus) as refused:
            async with open_socket(server, additional_headers=headers):
                pass
        assert refused.value.response.status_code == status, headers
        assert json.loads(refused.value.response.body)["error"]["code"]


async def test_sockets_of_our_own_page_are_let_in(server: httpx.AsyncClient) -> None:
    async with open_socket(server, additional_headers={"origin": own(server)}):
        pass


async def test_the_refusal_names_origin_and_way_out(server: httpx.AsyncClient) -> None:
    answer = await server.post(CHAT, headers={"origin": "https://" + "e" * 500}, json=chat_body())
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("forbidden", "Origin")
    assert "--cors-origins" in error["message"]
    assert len(error["message"]) < 200
    error = (await server.get("/version", headers={"host": "evil.example"})).json()["error"]
    assert "'evil.example'" in error["message"]
    assert "--allowed-hosts" in error["message"]
