"""The article's client: prints an answer as it is made, from either server.

Runs in any environment with jina (`make jina-env`); nothing of ours is needed. The prompt carries
the tags of the demo model's chat template; for Llama 2 it would be `<s>[INST] ... [/INST]`.
"""

import asyncio

from docarray import BaseDoc
from jina import Client

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


class PromptDocument(BaseDoc):
    prompt: str
    max_tokens: int


class ModelOutputDocument(BaseDoc):
    token_id: int
    generated_text: str


async def main() -> None:
    client = Client(port=12345, protocol="grpc", asyncio=True)
    async for doc in client.stream_doc(
        on="/stream",
        inputs=PromptDocument(prompt=PROMPT, max_tokens=200),
        return_type=ModelOutputDocument,
    ):
        print(doc.generated_text, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
