"""What a token costs the event loop's thread, from the engine's event to the frame at the socket.

`python -m bench.loop_cost`: processor time of the thread in microseconds per token, for 1, 8 and
32 chats that are streamed and not stored, one token per stream and step, without an engine and
without sockets; the least of several rounds. The last line is JSON.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from tests.doubles.tokenizer import byte_tokenizer_config
from tests.doubles.waiting import until

from llamastream.api.deliver import StreamedAnswer
from llamastream.api.wire.chat import ChatEndpoint
from llamastream.api.wire.format import Caller
from llamastream.generation import Answers
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import EngineState, EngineStatus, Event, GenerationRequest, Token

STREAMS, STEPS, ROUNDS, WARM_UP = (1, 8, 32), 2000, 7, 200


class StepByStep:
    """An engine whose steps are what `on_events` is called with."""

    on_events: Callable[[list[Event]], None]

    def __init__(self) -> None:
        self.ids: list[str] = []

    def start(self, on_events: Callable[[list[Event]], None], on_end: Callable[[], None]) -> None:
        self.on_events = on_events

    async def stop(self) -> None: ...

    async def ready(self) -> None: ...

    def check_room(self, scope: str, count: int) -> None: ...

    def submit(self, request: GenerationRequest) -> None:
        self.ids.append(request.request_id)

    def cancel(self, request_id: str) -> None: ...

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY, 1 << 20, 259, 0, 0, 1, 1)


class Connection:
    """Takes all that is written."""

    lags = False

    def __init__(self) -> None:
        self.num_frames = 0

    def write_soon(self, body: bytes) -> None:
        self.num_frames += 1

    def flush(self) -> None: ...


async def measure(num_streams: int) -> float:
    engine, tokenizer = StepByStep(), Tokenizer(byte_tokenizer_config())
    prompts = PromptBuilder.from_config(tokenizer, None)
    answers = Answers(engine, tokenizer, prompts, model_name="demo")  # type: ignore[arg-type]
    await answers.start()
    connections = [Connection() for _ in range(num_streams)]
    tasks = [asyncio.create_task(_serve(answers, one)) for one in connections]
    await until(lambda: len(engine.ids) == num_streams)
    spent_s, position = float("inf"), 0
    for number in range(ROUNDS + 1):
        round_s, steps = 0.0, STEPS // num_streams if number else WARM_UP
        for _ in range(steps):
            events: list[Event] = [Token(id, position, 97 + position % 26) for id in engine.ids]
            position += 1
            began = time.thread_time()
            engine.on_events(events)
            round_s += time.thread_time() - began
            await asyncio.sleep(0)
        if number:
            spent_s = min(spent_s, round_s / steps)
    assert all(one.num_frames > position / 2 for one in connections)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return spent_s / num_streams * 1e6


async def _serve(answers: Answers, connection: Connection) -> None:
    endpoint = ChatEndpoint()
    raw = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    body = endpoint.parse(raw | {"max_tokens": 100_000})
    request, new = await endpoint.plan(body, Caller("", ""), answers.sampling)
    generation = await answers.open(request, new)
    answer = StreamedAnswer(generation, endpoint.format(generation), ping_interval_s=60)
    await answer({"state": {"connection": connection}}, asyncio.Event().wait, _send)


async def _send(_: Any) -> None: ...


async def main() -> None:
    figures = {}
    for num_streams in STREAMS:
        figures[num_streams] = round(await measure(num_streams), 2)
        print(f"{num_streams:3} streams: {figures[num_streams]:.2f} us per token", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main())
