"""A hub on loopback that speaks the endpoints huggingface_hub uses, and misbehaves on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """Files by name. `stated` replaces the content that sizes and digests are computed from."""

    files: dict[str, bytes]
    gated: bool = False
    stated: dict[str, bytes] = field(default_factory=dict)
    status: int = 200  # of every answer
    cut: set[str] = field(default_factory=set)  # bodies that end half-way

    def entry(self, name: str) -> dict[str, Any]:
        data = self.stated.get(name, self.files[name])
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"size": len(data), "oid": blob}
        if name.endswith((".safetensors", ".bin", ".gguf", ".pth")):
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": 130}
        return entry


class StandInHub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  # "METHOD path"
        self.url = ""

    def downloaded(self) -> set[str]:
        """Names of the files whose bodies were sent."""
        return {
            line.rpartition("/")[2]
            for line in self.requests
            if line.startswith("GET ") and "/resolve/" in line
        }


@contextmanager
def running_hub() -> Iterator[StandInHub]:
    hub = StandInHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        repository = self.hub.repositories.get(f"{owner}/{name}")
        if repository is None:
            self._send(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif repository.status != 200:
            self._send(repository.status, b"{}")
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": file, **repository.entry(file)}
                for file in repository.files
            ]
            self._send(200, json.dumps(tree).encode())
        elif api:
            self._send(200, json.dumps(_info(f"{owner}/{name}", repository)).encode())
        elif repository.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self._send_file(repository, rest[-1], body=body)

    def _send_file(self, repository: Repository, name: str, *, body: bool) -> None:
        if name not in repository.files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        entry, data = repository.entry(name), repository.files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            headers |= {
                "X-Linked-ETag": f'"{entry["lfs"]["oid"]}"',
                "X-Linked-Size": str(entry["size"]),
            }
        if name in repository.cut and body:
            self._send(200, data[: len(data) // 2], headers, length=len(data))
            self.close_connection = True
            return
        self._send(200, data, headers, body=body)

    def _send(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        body: bool = True,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


def _info(repo_id: str, repository: Repository) -> dict[str, Any]:
    siblings = []
    for name in repository.files:
        entry = repository.entry(name)
        sibling = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            sibling["lfs"] = entry["lfs"]
        siblings.append(sibling)
    return {"id": repo_id, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
