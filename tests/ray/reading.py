"""A reader of one stored answer, who comes back whenever its connection ends too early."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE_S = 60.0


@dataclass
class Reading:
    """`events`: numbers and texts in the order in which they came."""

    id: str
    text: str = ""
    last: int = -1
    num_connections: int = 0
    is_over: bool = False
    status: str = ""
    numbers: list[int] = field(default_factory=list)
    longest_pause_s: float = 0.0
    pause_began: float = 0.0


def begin(client: httpx.Client, prompt: str, num_tokens: int) -> str:
    """A background answer, drawn with a seed; its id."""
    reply = client.post(
        "/v1/responses",
        json={
            "model": "demo",
            "input": prompt,
            "max_output_tokens": num_tokens,
            "background": True,
            "temperature": 0.8,
            "seed": 7,
            "ignore_eos": True,
        },
    )
    reply.raise_for_status()
    found: str = reply.json()["id"]
    return found


def read(
    client: httpx.Client, id: str, on_text: Callable[[Reading], None] = lambda _: None
) -> Reading:
    """To its end, over as many connections as it takes."""
    reading = Reading(id)
    deadline = time.monotonic() + PATIENCE_S
    while not reading.is_over:
        reading.num_connections += 1
        try:
            _follow(client, reading, on_text)
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, (
            f"{id} is not over within {PATIENCE_S} s: event {reading.last}, "
            f"{reading.num_connections} connections"
        )
        if not reading.is_over:
            time.sleep(0.1)
    return reading


def _follow(client: httpx.Client, reading: Reading, on_text: Callable[[Reading], None]) -> None:
    asked = {"stream": "true"} | ({"starting_after": reading.last} if reading.last >= 0 else {})
    with client.stream("GET", f"/v1/responses/{reading.id}", params=asked) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                _take(reading, json.loads(line.removeprefix("data: ")))
                on_text(reading)


def _take(reading: Reading, event: dict[str, Any]) -> None:
    if event["type"] == "error":
        return  # and the connection ends; what was read stays
    if event["type"] == "response.failed" and "store_unavailable" in json.dumps(event):
        return
    reading.last = event["sequence_number"]
    reading.numbers.append(reading.last)
    if event["type"] == "response.output_text.delta":
        now = time.monotonic()
        if reading.pause_began:
            reading.longest_pause_s = max(reading.longest_pause_s, now - reading.pause_began)
        reading.pause_began = now
        reading.text += event["delta"]
    elif event["type"] in ("response.completed", "response.incomplete", "response.failed"):
        reading.is_over, reading.status = True, event["type"]
