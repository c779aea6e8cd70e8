"""A Jina Deployment that streams scripted tokens: what `jina_transport.py` measures against.

Runs in jina's environment (`make test-jina` makes it). Arguments: port, and `gateway` or `direct`.
"""

import asyncio
import sys

from docarray import BaseDoc
from jina import Deployment, Executor, requests


class PromptDocument(BaseDoc):
    prompt: str
    max_tokens: int


class ModelOutputDocument(BaseDoc):
    token_id: int
    generated_text: str


class ScriptedExecutor(Executor):
    @requests(on="/stream")
    async def task(self, doc: PromptDocument, **_) -> ModelOutputDocument:
        for i in range(doc.max_tokens):
            await asyncio.sleep(0)  # the other streams' turn
            yield ModelOutputDocument(token_id=i, generated_text=" token")


if __name__ == "__main__":
    port, kind = int(sys.argv[1]), sys.argv[2]
    gateway = kind == "gateway"
    with Deployment(uses=ScriptedExecutor, port=port, protocol="grpc", include_gateway=gateway):
        print("READY", flush=True)
        sys.stdin.read()
