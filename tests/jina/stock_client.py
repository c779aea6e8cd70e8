"""Runs in jina's own environment: the unmodified jina.Client, told by lines of JSON what to ask.

A line on stdin is one question: protocol, port, n (streams at once), document, and `leave_after`
(documents after which to leave). A line on stdout is its answer. The documents are the article's:
two fields each, and nothing of ours.
"""

import asyncio
import json
import sys

from docarray import BaseDoc
from jina import Client
from pydantic import ValidationError


class PromptDocument(BaseDoc):
    prompt: str
    max_tokens: int | str  # str: for the tests of bad input


class ModelOutputDocument(BaseDoc):
    token_id: int
    generated_text: str


async def stream(client, question):
    answer = {"token_ids": [], "texts": [], "error": None}
    documents = client.stream_doc(
        on="/stream",
        inputs=PromptDocument(**question["document"]),
        return_type=ModelOutputDocument,
    )
    try:
        async for doc in documents:
            answer["token_ids"].append(doc.token_id)
            answer["texts"].append(doc.generated_text)
            if len(answer["texts"]) == question["leave_after"]:
                await documents.aclose()
                break
    except (
        ValidationError
    ) as error:  # what an error over HTTP comes to: its text is cut to 50 chars
        answer["error"] = str(error.errors()[0]["input"])
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    return answer


async def ask(question):
    client = Client(port=question["port"], protocol=question["protocol"], asyncio=True)
    ready = await client.is_flow_ready()
    streams = [stream(client, question) for _ in range(question["n"])]
    return {"ready": ready, "answers": await asyncio.gather(*streams)}


for line in sys.stdin:
    print("ANSWER " + json.dumps(asyncio.run(ask(json.loads(line)))), flush=True)
