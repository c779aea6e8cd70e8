"""The chat page at `/`: files that Vite made of `web/`, held in memory. Knows nothing of the API.

Only names of files that were there are answered, so no path can lead out of the folder.
"""

import gzip
import hashlib
import mimetypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).parents[1] / "web"  # `make web` writes it
INDEX = "index.html"
ASSETS = "/assets/"
# The page is all there is: no other origin, nothing inline, no text that turns into markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
A_YEAR = "public, max-age=31536000, immutable"  # their names change with their content
NOT_BUILT = """llamastream is running; its interface is under /v1 (docs/http-api.md).

The chat page is not built. With Node.js 20.19 or later: make web, and then start the server again.
"""


def is_built() -> bool:
    return (FOLDER / INDEX).is_file()


class File(NamedTuple):
    body: bytes
    zipped: bytes
    headers: dict[str, str]


def page_routes(folder: Path = FOLDER) -> list[Route]:
    """`/` and what it loads. Without the files, `/` says how to get them."""

    @cache
    def files() -> dict[str, File]:  # read when the page is first asked for
        paths = [folder / INDEX, *(folder / "assets").glob("*")]
        return {path.name: _read(path) for path in paths if path.is_file()}

    async def index(request: Request) -> Response:
        file = files().get(INDEX)
        if file is None:
            return PlainTextResponse(NOT_BUILT, 404, SECURITY)
        return _respond(request, file)

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name == INDEX or name not in files():
            raise HTTPException(404)
        return _respond(request, files()[name])

    return [Route("/", index), Route(ASSETS + "{name}", asset)]


def _read(path: Path) -> File:
    body = path.read_bytes()
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return File(
        body,
        gzip.compress(body, mtime=0),
        {
            **SECURITY,
            "content-type": kind if kind.startswith("font/") else f"{kind}; charset=utf-8",
            "cache-control": "no-cache" if path.name == INDEX else A_YEAR,
            "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            "vary": "accept-encoding",
        },
    )


def _respond(request: Request, file: File) -> Response:
    if file.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=file.headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.zipped, headers=file.headers | {"content-encoding": "gzip"})
    return Response(file.body, headers=file.headers)
