"""The service on a scripted model, for clients that know nothing of it.

    python -m tests.clients.server [PORT]

Prints its address and serves until it is ended. The way of a request is the real one but for the
engine: HTTP, prompts, grammars, calls, the store.
"""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from tests.clients.model import answer
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service
from tests.doubles.templates import HYBRID


async def serve(folder: Path) -> None:
    engine = FakeEngine(answer, max_model_len=1_000_000, vocab_size=261)
    service = make_service(engine, template=HYBRID)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with running_server(service, stored=make_responses(service, folder)) as url:
        print(url, flush=True)
        await ended.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(asyncio.run(serve(Path(folder))))
