"""What --speculation gives, on text that repeats and on text that does not, on and off in turns.

    python bench/speculation.py --model demo.gguf --streams 1,8

In this process, without HTTP: the time between the first and the last token of each answer. Every
answer is compared with the one drawn without drafts: they must be equal. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llamastream.app import find_model, load_runner
from llamastream.config import EngineConfig, ModelSettings
from llamastream.engine.gpu.device import choose_device
from llamastream.engine.llm_engine import LLMEngine
from llamastream.engine.runner import Runner
from llamastream.sampling import SamplingParams
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import GenerationRequest, Message, Token

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "tests/data/english.txt").read_text()
CODE = (ROOT / "src/llamastream/text/stops.py").read_text()
MODES = ("off", "auto")

# Name, question, temperature. The demo model is small: greedily it falls into repeating itself,
# so what shall not repeat is drawn at 1.
CASES = (
    ("code edit", f"Rename StopMatcher to Stops. Give back the whole code.\n\n{CODE[900:3400]}", 0),
    ("quotation", f"Repeat this text word for word:\n\n{TEXT[:2500]}", 0),
    ("summary", f"Summarize this text:\n\n{TEXT[:3000]}", 0),
    ("summary, drawn", f"Summarize this text:\n\n{TEXT[5000:8000]}", 0.7),
    ("list", "List ten uses of a paper clip and explain each.", 0),
    ("story, drawn", "Write a story about a dragon who is afraid of fire.", 1.0),
    ("answer, drawn", "Explain how a bicycle stays upright.", 1.0),
    ("history, drawn", "Describe the causes of the French Revolution.", 1.0),
)


class Run(NamedTuple):
    answers: list[list[int]]
    tok_s: float  # of all streams, between the first step that drew for all and the last
    tokens_per_step: float  # and stream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--streams", default="1", help="at once, with different seeds: 1,8")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    settings = ModelSettings(model=options.model)
    checkpoint = find_model(settings)
    tokenizer = Tokenizer(checkpoint.tokenizer)
    prompts = PromptBuilder.from_config(tokenizer, None, allow_prompt_tags=False)
    runner = load_runner(checkpoint, settings, choose_device(settings.device))
    report = []
    for streams in map(int, options.streams.split(",")):
        for name, question, temperature in [case for case in CASES if options.only in case[0]]:
            ids = prompts.build((Message("user", question),))
            sampling = SamplingParams(temperature=temperature, max_tokens=options.tokens)
            requests = [
                GenerationRequest(str(i), ids, replace(sampling, seed=i)) for i in range(streams)
            ]
            runs = list(alternate(runner, settings.engine_config(), requests, options.rounds))
            report.append({"case": name, "streams": streams, **summary(runs)})
            print(" ".join(f"{key}={value}" for key, value in report[-1].items()), flush=True)
    print(json.dumps(report))


def alternate(
    runner: Runner, config: EngineConfig, requests: list[GenerationRequest], rounds: int
) -> Iterator[dict[str, Run]]:
    """Both modes, in turns, once per round."""
    for _ in range(rounds):
        runs = {mode: run(runner, replace(config, speculation=mode), requests) for mode in MODES}
        assert runs["auto"].answers == runs["off"].answers, "drafts changed the answer"
        yield runs


def run(runner: Runner, config: EngineConfig, requests: list[GenerationRequest]) -> Run:
    """All requests at once, on an engine of their own."""
    engine = LLMEngine(runner, config)
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while not all(answers.values()):
        collect(engine, answers)
    start_s, before, steps = time.perf_counter(), sum(map(len, answers.values())), 0
    while engine.has_work:
        collect(engine, answers)
        steps += 1
    num_tokens = sum(map(len, answers.values())) - before
    elapsed_s = time.perf_counter() - start_s
    return Run(list(answers.values()), num_tokens / elapsed_s, num_tokens / steps / len(requests))


def collect(engine: LLMEngine, answers: dict[str, list[int]]) -> None:
    for event in engine.step():
        if isinstance(event, Token):
            answers[event.request_id].append(event.token_id)


def summary(rounds: list[dict[str, Run]]) -> dict[str, float]:
    ratios = [runs["auto"].tok_s / runs["off"].tok_s for runs in rounds]
    medians = {
        mode: round(statistics.median(runs[mode].tok_s for runs in rounds), 1) for mode in MODES
    }
    return {
        **medians,
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "tokens_per_step": round(rounds[0]["auto"].tokens_per_step, 2),
    }


if __name__ == "__main__":
    main()
