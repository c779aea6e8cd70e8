"""Streams through nginx with the configuration in deploy/, which is the one people will use."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
from websockets.asyncio.client import connect

from tests.api.sse import chat_body
from tests.api.test_responses import body, events_of
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import grpc_port
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.doubles.waiting import LIMIT_S, until
from tests.jina_wire.test_grpc_server import call_bytes, stream_doc, texts

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"
NGINX, OPENSSL = shutil.which("nginx"), shutil.which("openssl")
NAME = "chat.example.org"  # as in the file
MAIN = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; {user}
events {{}}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    include {folder}/llamastream.conf;
}}
"""

pytestmark = pytest.mark.skipif(not (NGINX and OPENSSL), reason="nginx or openssl is missing")


class Front(NamedTuple):
    """nginx before a server whose engine the test moves."""

    url: str
    engine: FakeEngine
    http: httpx.AsyncClient
    tls: ssl.SSLContext
    channel: grpc.aio.Channel


@pytest.fixture
async def front(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    """Its parameter, if any: lines of the file that are to be others."""
    engine = FakeEngine(says("abcdef"), manual=True)
    service = make_service(engine)
    responses = make_responses(service, tmp_path)
    certificate = make_certificate(tmp_path)
    tls = ssl.create_default_context(cafile=str(certificate))
    async with (
        running_server(service, stored=responses) as server,
        grpc_port(service, stored=responses) as rpc,
    ):
        changes = {
            "127.0.0.1:8000": f"127.0.0.1:{httpx.URL(server).port}",
            "127.0.0.1:12345": f"127.0.0.1:{rpc}",
            **getattr(request, "param", {}),
        }
        with running_nginx(tmp_path, changes) as port:
            await until(lambda: is_listening(port))
            url = f"https://127.0.0.1:{port}"
            credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
            options = (("grpc.ssl_target_name_override", NAME),)
            channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)
            async with (
                httpx.AsyncClient(base_url=url, verify=tls, timeout=LIMIT_S) as http,
                channel,
            ):
                yield Front(url, engine, http, tls, channel)


def make_certificate(folder: Path) -> Path:
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    command = [str(OPENSSL), "req", "-x509", *kind, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "certificate"


@contextmanager
def running_nginx(folder: Path, changes: dict[str, str]) -> Iterator[int]:
    """With the file of deploy/, and of that nothing changed but `changes`, port and paths."""
    port = free_port()
    changes |= {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/ssl/llamastream.crt": f"{folder}/certificate",
        "/etc/ssl/llamastream.key": f"{folder}/key",
        "/var/log/nginx/llamastream.log": f"{folder}/access.log",
    }
    text = CONFIG.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "llamastream.conf").write_text(text)
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user))
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen([*command, "-e", str(folder / "error.log")]) as process:
        try:
            yield port
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_each_token_passes_when_it_is_made(front: Front) -> None:
    stream = front.http.stream("POST", "/v1/chat/completions", json=chat_body(stream=True))
    async with stream as answer:
        lines = (line async for line in answer.aiter_lines() if "content" in line)
        for letter in "abcdef":
            front.engine.allow(1)
            seen = ""
            while not seen:
                chunk = json.loads((await anext(lines)).removeprefix("data: "))
                seen = chunk["choices"][0]["delta"]["content"]
            assert seen == letter


async def test_a_client_that_leaves_ends_its_request(front: Front) -> None:
    stream = front.http.stream("POST", "/v1/chat/completions", json=chat_body(stream=True))
    async with stream as answer:
        front.engine.allow(1)
        await anext(answer.aiter_bytes())
    await until(lambda: front.engine.num_alive == 0)


async def test_a_whole_answer_passes(front: Front) -> None:
    front.engine.allow(100)
    answer = await front.http.post("/v1/chat/completions", json=chat_body())
    assert answer.json()["choices"][0]["message"]["content"] == "abcdef"


async def test_a_large_body_passes(front: Front) -> None:
    """Up to what both allow; the text in it is within the bound of what may be encoded."""
    front.engine.allow(100)
    body = json.dumps({"prompt": "x" * 1000}).encode().ljust((4 << 20) - 1)
    answer = await front.http.post("/tokenize", content=body)
    assert (answer.status_code, answer.json()["count"]) == (200, 1000)


async def test_a_text_over_its_bound_gets_the_servers_own_answer(front: Front) -> None:
    answer = await front.http.post("/tokenize", json={"prompt": "x" * (3 << 20)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    assert "at least" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "front", [{"client_max_body_size 4m": "client_max_body_size 40m"}], indirect=True
)
@pytest.mark.parametrize("path", ["/tokenize", "/v1/responses"])
async def test_a_body_over_the_servers_bound_gets_its_own_answer(front: Front, path: str) -> None:
    """It is refused by its length while nginx still sends it."""
    for size in ((4 << 20) + 1, 20 << 20):
        answer = await front.http.post(path, content=b" " * size)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "payload_too_large"
        assert f"<= {4 << 20} bytes. Given: {size}." in answer.json()["error"]["message"]


async def test_a_reader_that_was_cut_off_resumes(front: Front) -> None:
    async with front.http.stream("POST", "/v1/responses", json=body(stream=True)) as answer:
        front.engine.allow(2)
        texts_of, seen = answer.aiter_text(), ""
        while 'sequence_number":5' not in seen:
            seen += await anext(texts_of)
    front.engine.allow(100)
    events = events_of(seen[: seen.rindex("\n\n") + 2])
    id, last = events[0]["response"]["id"], events[-1]["sequence_number"]
    rest = await front.http.get(f"/v1/responses/{id}?stream=true&starting_after={last}")
    whole = await front.http.get(f"/v1/responses/{id}?stream=true")
    assert events + events_of(rest.text) == events_of(whole.text)


@pytest.mark.parametrize("origin", [None, "own"])
async def test_a_socket_of_the_servers_own_page_is_opened(front: Front, origin: str | None) -> None:
    front.engine.allow(100)
    url = front.url.replace("https", "wss") + "/v1/responses"
    given = front.url if origin == "own" else None
    async with connect(url, ssl=front.tls, origin=given) as websocket:
        await websocket.send(json.dumps({"type": "response.create", **body()}))
        kind = ""
        while kind != "response.completed":
            kind = json.loads(await websocket.recv())["type"]


async def test_grpc_passes_token_by_token_and_a_cancel_too(front: Front) -> None:
    front.engine.allow(3)
    whole = stream_doc(front.channel, call_bytes(prompt="Hi", max_tokens=3))
    assert await texts(whole) == ["a", "b", "c"]
    call = stream_doc(front.channel, call_bytes(prompt="Hi", max_tokens=6))
    front.engine.allow(1)
    assert (await call.read()).document.data["generated_text"].text == "a"
    call.cancel()
    await until(lambda: front.engine.num_alive == 0)


async def test_logs_hold_no_prompt_and_metrics_stay_inside(front: Front, tmp_path: Path) -> None:
    front.engine.allow(100)
    await front.http.get("/stream?prompt=my-secret&max_tokens=2")
    log = tmp_path / "access.log"
    await until(lambda: " /stream 200 " in log.read_text())
    assert "my-secret" not in log.read_text()
    assert (await front.http.get("/metrics")).status_code == 200  # from the machine itself


@pytest.mark.parametrize("front", [{"send_timeout 60s": "send_timeout 1s"}], indirect=True)
async def test_a_reader_that_takes_nothing_is_given_up(front: Front) -> None:
    front.engine.script = lambda _: [ord("x")]  # for ever
    front.engine.max_model_len = 1_000_000
    data = json.dumps(chat_body(stream=True, logprobs=True, top_logprobs=20)).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(data)}",
    )
    head = "\r\n".join([*lines, "", ""])
    url = httpx.URL(front.url)
    _, writer = await asyncio.open_connection(url.host, url.port, ssl=front.tls, limit=1024)
    writer.write(head.encode() + data)
    await until(lambda: front.engine.num_alive)
    front.engine.allow(10_000)  # 2 KiB each, more than all buffers on the way
    await until(lambda: front.engine.num_alive == 0)
    writer.transport.abort()
