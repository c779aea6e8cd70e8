"""Runs in jina's own environment: the article's server script with our Executor.

The Executor's service is a script: the prompt says which. Arguments: port and protocol. Ends when
stdin does.
"""

import asyncio
import sys

from jina import Deployment

from llamastream.config import ModelSettings
from llamastream.errors import InternalError, Overloaded
from llamastream.generation import Generation, NewAnswer
from llamastream.jina import TokenStreamingExecutor
from llamastream.types import ChatRequest
from tests.doubles.scripted_answers import ScriptedAnswers

TEXTS = ["Hé", "llo ", "🙂", " event: x", "\n"]


class ByPrompt(ScriptedAnswers):
    """A script per prompt. "count" tells how many requests came before."""

    async def open(self, request: ChatRequest, new: NewAnswer) -> Generation:
        scripts = {
            "hello": TEXTS,
            "many": [f"{i} " for i in range(request.sampling.max_tokens or 0)],
            "break": ["a", "b", InternalError("the engine broke")],
            "wait": ["a", asyncio.Event()],
            "count": [str(len(self.requests))],
        }
        self.refusal = Overloaded("the queue is full") if request.prompt == "full" else None
        self.script = tuple(scripts.get(str(request.prompt), ()))
        return await super().open(request, new)


class ScriptedExecutor(TokenStreamingExecutor):
    """Our Executor without weights."""

    async def start_service(self, settings: ModelSettings) -> ByPrompt:
        return ByPrompt()


if __name__ == "__main__":
    port, protocol = sys.argv[1:]
    with Deployment(uses=ScriptedExecutor, port=int(port), protocol=protocol):
        print("READY", flush=True)
        sys.stdin.read()
