"""A conversation over the article's wire: the client keeps the log and sends it with every turn.

`messages` is a field beyond the article's: the server makes the prompt from it by the model's own
template, so that no tag is typed here and none can be forged. Runs where jina does
(`make jina-env`).
"""

import asyncio

from jina import Client

from llamastream.schema import ModelOutputDocument, PromptDocument


async def answer(client: Client, log: list[dict[str, str]]) -> str:
    """Print the answer to the log's last message as it is made, and return it."""
    pieces = []
    async for doc in client.stream_doc(
        on="/stream",
        inputs=PromptDocument(messages=log, max_tokens=300),
        return_type=ModelOutputDocument,
    ):
        print(doc.generated_text, end="", flush=True)
        pieces.append(doc.generated_text)
    print()
    return "".join(pieces)


async def main() -> None:
    client = Client(port=12345, protocol="grpc", asyncio=True)
    log = [{"role": "system", "content": "You are a friendly assistant."}]
    while True:
        try:
            said = await asyncio.to_thread(input, "> ")
        except EOFError:
            return
        log.append({"role": "user", "content": said})
        log.append({"role": "assistant", "content": await answer(client, log)})


if __name__ == "__main__":
    asyncio.run(main())
