"""Time to the first token of each turn of a conversation that lives on the server.

python -m tests.soak.memory --model demo
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.soak.server import Server

TOPICS = (
    "the sea", "old maps", "bread", "a long winter", "trains", "my grandmother's garden",
    "music", "how glass is made", "the moon", "bees",
)  # fmt: skip
NUM_TURNS = 20
NUM_TOKENS = 60  # of each answer


async def turn(client: httpx.AsyncClient, conversation: str, text: str) -> tuple[float, int, int]:
    """Seconds to the first token, prompt tokens, and how many of them were cached."""
    body = {
        "model": (await client.get("/v1/models")).json()["data"][0]["id"],
        "input": text,
        "conversation": conversation,
        "stream": True,
        "max_output_tokens": NUM_TOKENS,
        "ignore_eos": True,
        "temperature": 0.0,
    }
    began = time.perf_counter()
    first_s = 0.0
    async with client.stream("POST", "/v1/responses", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith('data: {"type":"response.output_text.delta"') and not first_s:
                first_s = time.perf_counter() - began
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
    usage = event["response"]["usage"]
    return first_s, usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]


async def conversation(client: httpx.AsyncClient, topic: str) -> tuple[str, list[float]]:
    id = (await client.post("/v1/conversations", json={})).json()["id"]
    times = []
    for number in range(1, NUM_TURNS + 1):
        text = f"Question {number}: tell me one more thing about {topic}, please."
        seconds, num_prompt, num_cached = await turn(client, id, text)
        times.append(seconds)
        print(f"turn={number} ttft_ms={seconds * 1000:.1f} prompt={num_prompt} cached={num_cached}")
    return id, times


async def run(model: str, rounds: int, folder: Path) -> None:
    server = Server(folder, model=model)
    await server.start()
    conversations = []
    for topic in TOPICS[:rounds]:
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
            id, times = await conversation(client, topic)
        conversations.append(times)
    await server.stop()
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
        for number in range(2):
            seconds, num_prompt, num_cached = await turn(client, id, "And now?")
            print(
                f"restarted turn={number} ttft_ms={seconds * 1000:.1f} prompt={num_prompt} "
                f"cached={num_cached}"
            )
    await server.stop()
    second, last = (statistics.median(times[i] for times in conversations) * 1000 for i in (1, -1))
    print(f"medians: turn 2 {second:.1f} ms, turn {NUM_TURNS} {last:.1f} ms, {last / second:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to the first token of each turn.")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=len(TOPICS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(arguments.model, arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
