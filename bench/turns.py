"""Time to first token as a conversation grows: the server keeps its log and its prefix cache.

    python bench/turns.py --base-url http://127.0.0.1:8000 --conversations 8

Conversations one after the other, 20 turns each, the message alone being sent. Every message is
different, answers have 64 tokens. The first conversation is not counted. The last line is JSON.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator

from openai import OpenAI

NUM_TURNS = 20
NUM_TOKENS = 64  # of each answer
WORDS = (
    "river stone garden window music paper forest silver morning bread coffee letter winter summer"
    " bridge castle market ocean mountain village teacher doctor painter story question colour"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="http://127.0.0.1:8000")
    parser.add_argument("--conversations", type=int, default=8)
    options = parser.parse_args()
    client = OpenAI(base_url=options.base_url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    generator = random.Random(time.time_ns())  # or the next run finds its prompts in the cache
    rounds = [list(converse(client, model, generator)) for _ in range(options.conversations + 1)]
    turns = list(zip(*rounds[1:], strict=True))  # [turn][conversation] -> (ms, prompt tokens)
    print(f"{'turn':>4} {'prompt tokens':>14} {'first token, ms':>16} {'lowest':>7} {'highest':>8}")
    medians = []
    for number, turn in enumerate(turns, start=1):
        times_ms = [first_ms for first_ms, _ in turn]
        num_tokens = statistics.median(count for _, count in turn)
        medians.append(statistics.median(times_ms))
        print(
            f"{number:>4} {num_tokens:>14.0f} {medians[-1]:>16.1f} {min(times_ms):>7.1f}"
            f" {max(times_ms):>8.1f}"
        )
    ratio = medians[-1] / medians[1]
    print(f"turn {NUM_TURNS} takes {ratio:.2f} times turn 2")
    print(json.dumps({"first_token_ms": medians, "ratio": ratio}))


def converse(client: OpenAI, model: str, generator: random.Random) -> Iterator[tuple[float, int]]:
    """Milliseconds to the first token, and tokens of the whole prompt, of each turn."""
    conversation = client.conversations.create()
    for _ in range(NUM_TURNS):
        text = "Tell me more about " + " ".join(generator.choices(WORDS, k=17)) + "."
        began, first_ms, num_tokens = time.perf_counter(), 0.0, 0
        for event in client.responses.create(
            model=model,
            input=text,
            conversation=conversation.id,
            stream=True,
            max_output_tokens=NUM_TOKENS,
            extra_body={"ignore_eos": True},
        ):
            if event.type == "response.output_text.delta" and not first_ms:
                first_ms = (time.perf_counter() - began) * 1000
            elif event.type in ("response.completed", "response.incomplete"):
                assert event.response.usage is not None
                num_tokens = event.response.usage.input_tokens
        assert first_ms and num_tokens, "an answer without a text or an end"
        yield first_ms, num_tokens


if __name__ == "__main__":
    main()
