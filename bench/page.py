"""What an answer costs the chat page, in the Chromium that is installed, by its own counters.

    PYTHONPATH=. python bench/page.py [--tokens 10000] [--rate 1000] [--rounds 3]

The server is the real one on a scripted engine, which gives tokens of four characters at `--rate` a
second (0: as fast as they are taken). A row is a quarter of the answer: processor time of the
page's main thread for each token and for each frame (a busy machine draws fewer, of more tokens),
its heap and its elements when garbage is collected, and its longest task by the trace; then what
the page takes to be shown first. `--functions` tells what the processor did. The last line is JSON.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from playwright.async_api import Browser, CDPSession, Page, async_playwright
from tests.doubles.engine import FakeEngine
from tests.doubles.server import running_server
from tests.doubles.service import make_responses, make_service, says
from tests.page.conftest import NAMES, VIEW

TOKEN = 4  # characters
QUARTERS = 4
BLOCK = """\
### A heading

Some **words** of a sentence, with `code`, a [link](https://example.org) and more of it, as models
write them: *one* after the other, to the end of the line and on to the next.

- an item
- another, with **strong** words
  1. and one within

| a | b |
|---|---|
| 1 | 2 |

```python
def f(x):
    return x + 1
```

"""
TRACED = "devtools.timeline,disabled-by-default-devtools.timeline,toplevel"


LONG_MS = 50
TIMES = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")


class Row(NamedTuple):
    tokens: int
    us_per_token: int  # of the main thread's processor time
    script: int  # of it
    layout: int
    style: int
    heap_mb: float
    nodes: int
    longest_ms: float  # task
    longest_cpu_ms: float
    over_50_ms: int
    frames: int
    us_per_frame: int


class Task(NamedTuple):
    """One of the page's main thread."""

    ms: float
    cpu_ms: float  # of the processor: less, where others want it too
    cpu_us: Counter[str]  # by what it did


class Trace:
    """Tasks between two moments."""

    def __init__(self, session: CDPSession) -> None:
        self._session = session
        self._events: list[dict[str, Any]] = []
        session.on("Tracing.dataCollected", lambda data: self._events.extend(data["value"]))

    async def start(self) -> None:
        config = {"includedCategories": TRACED.split(","), "excludedCategories": ["*"]}
        await self._session.send("Tracing.start", {"traceConfig": config})

    async def stop(self) -> list[Task]:
        ended = asyncio.Event()
        self._session.once("Tracing.tracingComplete", lambda _: ended.set())
        await self._session.send("Tracing.end")
        await ended.wait()
        main = {
            (event["pid"], event["tid"])
            for event in self._events
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        spans = [
            event
            for event in self._events
            if event.get("dur") and "tdur" in event and (event["pid"], event["tid"]) in main
        ]
        return _nested(sorted(spans, key=lambda event: (event["ts"], -event["dur"])))


def _nested(spans: list[dict[str, Any]]) -> list[Task]:
    """Tasks, with the time of what is inside them by its name, without what is inside that."""
    tasks: list[Task] = []
    inside: list[dict[str, Any]] = []
    for span in spans:
        while inside and inside[-1]["ts"] + inside[-1]["dur"] <= span["ts"]:
            inside.pop()
        if not inside:
            tasks.append(Task(span["dur"] / 1000, span["tdur"] / 1000, Counter()))
        else:
            tasks[-1].cpu_us[inside[-1]["name"]] -= span["tdur"]
        tasks[-1].cpu_us[span["name"]] += span["tdur"]
        inside.append(span)
    return tasks


async def metrics(session: CDPSession) -> dict[str, float]:
    await session.send("HeapProfiler.collectGarbage")
    found = await session.send("Performance.getMetrics")
    return {metric["name"]: metric["value"] for metric in found["metrics"]}


async def give(engine: FakeEngine, num_steps: int, rate: float) -> None:
    start = time.perf_counter()
    given = 0
    while given < num_steps:
        due = num_steps if not rate else int((time.perf_counter() - start) * rate)
        due = min(num_steps, due)
        engine.allow(due - given)
        given = due
        await asyncio.sleep(0.005)


async def first_paint(browser: Browser, url: str) -> float:
    context = await browser.new_context(viewport=VIEW)  # nothing is kept of the files
    page = await context.new_page()
    await page.goto(url)
    # A function that is polled would need eval, which the page forbids.
    value = float(
        await page.evaluate(
            """() => new Promise((resolve) => {
              const observer = new PerformanceObserver((list) => {
                const paint = list.getEntriesByName("first-contentful-paint")[0];
                if (paint) resolve(paint.startTime);
              });
              observer.observe({ type: "paint", buffered: true });
            })"""
        )
    )
    await context.close()
    return value


async def one_round(
    page: Page, engine: FakeEngine, num_tokens: int, rate: float
) -> tuple[list[Row], list[Counter[str]]]:
    """A row for each quarter, and where its processor time went."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    await page.get_by_label("Message").fill("go")
    await page.keyboard.press("Enter")
    await page.locator("article.live").wait_for()
    count = num_tokens // QUARTERS
    rows, functions = [], []
    for quarter in range(1, QUARTERS + 1):
        before = await metrics(session)
        trace = Trace(session)
        await trace.start()
        await give(engine, count, rate)
        await page.locator("article.assistant").get_by_text(f"END{quarter}").wait_for()
        tasks = await trace.stop()
        after = await metrics(session)
        functions.append(sum((task.cpu_us for task in tasks), Counter()))
        spent = {name: (after[name] - before[name]) * 1e6 / count for name in TIMES}
        rows.append(
            Row(
                count * quarter,
                *(round(us) for us in spent.values()),
                round(after["JSHeapUsedSize"] / 1e6, 1),
                int(after["Nodes"]),
                round(max(task.ms for task in tasks), 1),
                round(max(task.cpu_ms for task in tasks), 1),
                sum(task.ms > LONG_MS for task in tasks),
                frames := sum("FireAnimationFrame" in task.cpu_us for task in tasks),
                round(spent["TaskDuration"] * count / max(frames, 1)),
            )
        )
    return rows, functions


def print_functions(functions: list[Counter[str]], frames: list[int]) -> None:
    """Microseconds of a frame, by quarter."""
    for name, _ in functions[-1].most_common(12):
        times = (spent[name] / num for spent, num in zip(functions, frames, strict=True))
        print(f"{name:>45}", *(f"{us:8.0f}" for us in times))


def answer_of(num_tokens: int) -> str:
    """Each quarter ends by a line that says so."""
    size = num_tokens * TOKEN // QUARTERS
    parts = []
    for quarter in range(1, QUARTERS + 1):
        end = f"\n\nEND{quarter}\n\n"
        parts.append((BLOCK * (size // len(BLOCK) + 1))[: size - len(end)] + end)
    return "".join(parts)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--functions", action="store_true")
    options = parser.parse_args()
    path = next(filter(None, map(shutil.which, NAMES)))
    rounds: list[dict[str, Any]] = []
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                engine = FakeEngine(
                    says(answer_of(options.tokens)),
                    manual=True,
                    max_model_len=2**20,
                    tokens_per_step=TOKEN,
                )
                service = make_service(engine)
                stored = make_responses(service, Path(folder))
                async with running_server(service, None, stored) as url:
                    paints = [await first_paint(browser, url) for _ in range(5)]
                    context = await browser.new_context(viewport=VIEW)
                    page = await context.new_page()
                    await page.goto(url)
                    rows, functions = await one_round(page, engine, options.tokens, options.rate)
                    await context.close()
            print(" ".join(f"{name:>12}" for name in Row._fields))
            for row in rows:
                print(" ".join(f"{value:12}" for value in row))
            if options.functions:
                print_functions(functions, [max(1, row.frames) for row in rows])
            print(f"first paint {statistics.median(paints):.0f} ms (median of {len(paints)})")
            quarters = [row._asdict() for row in rows]
            rounds.append({"quarters": quarters, "paint_ms": statistics.median(paints)})
        await browser.close()
    print(json.dumps({"rounds": rounds}))


if __name__ == "__main__":
    asyncio.run(main())
