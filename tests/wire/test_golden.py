"""The wire is the same to the byte: what was recorded once is what is sent today.

python -m tests.wire.test_golden   writes the record anew, to be read in review
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import httpx

from llamastream.errors import InternalError
from llamastream.types import Finished, FinishReason, GenerationRequest
from tests.doubles.engine import FakeEngine
from tests.doubles.jina_servers import grpc_port
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service
from tests.doubles.tokenizer import IM_END
from tests.doubles.waiting import LIMIT_S
from tests.wire.requests import ALL
from tests.wire.transcript import Transcript

GOLDEN = Path(__file__).with_name("golden.json")
ANSWER = "One, two, three é 😀 <go on>."
FAILS_AFTER = 5  # tokens


class GoldenEngine(FakeEngine):
    """Fails in the middle of an answer to a prompt that says so, or never begins with it."""

    def submit(self, request: GenerationRequest) -> None:
        super().submit(request)
        if b"waits" in said(request):
            del self._alive[request.request_id]

    def cancel(self, request_id: str) -> None:
        if request_id not in self._alive:
            self._events.append(Finished(request_id, FinishReason.CANCELLED, 0, 0, 0))
        super().cancel(request_id)

    def _advance(self, seq: Any) -> None:
        if seq.position == FAILS_AFTER and b"fails" in said(seq.request):
            self.fail(seq.request.request_id, InternalError("The runner failed."))
        else:
            super()._advance(seq)


def said(request: GenerationRequest) -> bytes:
    return bytes(token_id for token_id in request.prompt_ids if token_id < 256)


def script(request: GenerationRequest) -> list[int]:
    return [*ANSWER.encode(), IM_END]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Transcript]:
    service = make_service(GoldenEngine(script))
    responses = make_responses(service, folder)
    async with (
        running_server(service, None, responses) as url,
        grpc_port(service, stored=responses) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as http,
    ):
        yield Transcript(http, channel)


async def play(folder: Path) -> dict[str, list[str]]:
    async with running(folder) as transcript:
        for part in ALL:
            await part(transcript)
        return transcript.entries


async def test_every_answer_is_the_golden_one_to_the_byte(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = await play(tmp_path)
    assert found.keys() == golden.keys()
    for title, lines in golden.items():
        assert found[title] == lines, title


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        record = asyncio.run(play(Path(name)))
    GOLDEN.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
