"""Which sampling defaults a small chat model should have: how often answers loop, and facts hold.

    llamastream serve --port 8000
    python bench/defaults.py --url http://127.0.0.1:8000 --grid "0,1,1; 0.6,0.9,1.1"

Asks the questions of bench/prompts.txt with each seed at each point of the grid (temperature,
top_p, repetition_penalty; `default` sends none of them), through the chat API. An answer loops if
somewhere in it WINDOW words hold fewer than MIN_DISTINCT of their runs of three once only: numbers
count as one word, so that a list of one line is found. Answers depend on the seed and not on the
load, so a busy machine measures the same. The last line is JSON.
"""

import argparse
import asyncio
import json
import re
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx

PROMPTS = Path(__file__).parent / "prompts.txt"
WINDOW = 64  # words
MIN_DISTINCT = 0.5
PARAMETERS = ("temperature", "top_p", "repetition_penalty")


class Question(NamedTuple):
    text: str
    fact: str | None  # a regular expression


class Answer(NamedTuple):
    question: Question
    text: str
    finish_reason: str
    num_tokens: int

    @property
    def loops(self) -> bool:
        words = re.sub(r"\d+", "0", self.text.lower()).split()
        runs = [tuple(words[k : k + 3]) for k in range(len(words) - 2)]
        starts = range(max(len(runs) - WINDOW, 0) + 1)
        return len(runs) >= WINDOW and any(
            len(set(runs[k : k + WINDOW])) < WINDOW * MIN_DISTINCT for k in starts
        )

    @property
    def is_right(self) -> bool:
        return self.question.fact is not None and bool(re.search(self.question.fact, self.text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--grid", default="default", help="points: `0,1,1; 0.6,0.9,1.1; default`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--show", action="store_true", help="print the answers that loop")
    options = parser.parse_args()
    lines = [line for line in PROMPTS.read_text().splitlines() if not line.startswith("#")]
    questions = [Question(text, fact or None) for text, _, fact in map(at_tab, lines)]
    report = []
    for point in options.grid.split(";"):
        given = [] if point.strip() == "default" else map(float, point.split(","))
        sampling = dict(zip(PARAMETERS, given, strict=False))
        answers = asyncio.run(ask_all(options, questions, sampling))
        report.append(summary(sampling, answers))
        print(" ".join(f"{name}={value}" for name, value in report[-1].items()), flush=True)
        for answer in answers if options.show else []:
            if answer.loops:
                print(f"    {answer.question.text!r}: ...{answer.text[-160:]!r}")
    print(json.dumps(report))


def at_tab(line: str) -> tuple[str, str, str]:
    return line.partition("\t")


def summary(sampling: dict[str, float], answers: list[Answer]) -> dict[str, Any]:
    facts = [answer for answer in answers if answer.question.fact is not None]
    lengths = sorted(answer.num_tokens for answer in answers)
    return {
        **(sampling or {"defaults": True}),
        "answers": len(answers),
        "loops_percent": percent(answer.loops for answer in answers),
        "at_limit_percent": percent(answer.finish_reason == "length" for answer in answers),
        "facts_percent": percent(answer.is_right for answer in facts),
        "median_tokens": lengths[len(lengths) // 2],
    }


def percent(values: Any) -> float:
    found = list(values)
    return round(100 * sum(found) / len(found), 1)


async def ask_all(
    options: argparse.Namespace, questions: list[Question], sampling: dict[str, float]
) -> list[Answer]:
    seeds = range(1 if sampling.get("temperature") == 0 else options.seeds)
    async with httpx.AsyncClient(base_url=options.url, timeout=None) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        fixed = {"model": model, "max_tokens": options.max_tokens, **sampling}
        at_once = asyncio.Semaphore(32)

        async def ask(question: Question, seed: int) -> Answer:
            messages = [{"role": "user", "content": question.text}]
            body = {**fixed, "messages": messages, "seed": seed}
            async with at_once:
                response = (await client.post("/v1/chat/completions", json=body)).raise_for_status()
            (choice,), usage = response.json()["choices"], response.json()["usage"]
            text = choice["message"]["content"]
            return Answer(question, text, choice["finish_reason"], usage["completion_tokens"])

        return await asyncio.gather(*(ask(*pair) for pair in product(questions, seeds)))


if __name__ == "__main__":
    main()
