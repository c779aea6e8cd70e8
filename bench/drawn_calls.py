"""What a model that knows no tools does with them at temperature 1: calls drawn by a grammar alone.

    python -m bench.drawn_calls [--draws 1000] [--model demo]

Four ways to ask, each with another seed per draw: `required` and a tool by name must give calls
that fit their schemas, and `auto` text without a tag, or calls that fit. An answer that is cut off
at its limit is counted apart, and what it holds whole must fit. Ends with a line of JSON; exits
with 1 if one does not.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter

from llamastream.app import assemble
from llamastream.config import ModelSettings
from llamastream.generation import Answers, NewAnswer
from llamastream.grammar.checking import Checker
from llamastream.sampling import SamplingParams
from llamastream.tools import Tool, ToolChoice
from llamastream.types import ChatRequest, FinishReason, Message, PromptOptions, ToolCall

AT_ONCE, MAX_TOKENS = 16, 160
SEND = {
    "type": "object",
    "properties": {
        "to": {"type": "string", "maxLength": 20},
        "amount": {"type": "number", "minimum": 0, "maximum": 1000},
        "when": {"enum": ["now", "tomorrow"]},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
    },
    "required": ["to", "when"],
}
PLACE = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 24}}}
SCHEMAS = {"send_money": SEND, "weather": PLACE | {"required": ["city"]}, "now": {"type": "object"}}
TOOLS = tuple(Tool(name, f"Does {name}.", json.dumps(s)) for name, s in SCHEMAS.items())
ASKED = ("How is the weather in Oslo?", "Send Ann 5 dollars.", "Hello!", "What is the time?")
CHOICES = {
    "auto": ToolChoice(),
    "required": ToolChoice(is_required=True, parallel=False),
    "required, several": ToolChoice(is_required=True),
    "named": ToolChoice(is_required=True, names=("send_money",), parallel=False),
}


async def draw(answers: Answers, choice: ToolChoice, seed: int) -> str:
    """What is to be said of one answer."""
    request = ChatRequest(
        (Message("user", ASKED[seed % len(ASKED)]),),
        SamplingParams(temperature=1.0, seed=seed, max_tokens=MAX_TOKENS),
        prompt_options=PromptOptions(tools=TOOLS),
        tool_choice=choice,
    )
    generation = await answers.open(request, NewAnswer(f"draw-{seed}"))
    reason = None
    with generation.follow() as reader:
        async for delta in reader:
            reason = delta.finish_reason or reason
    calls = [part for part in generation.log.parts() if isinstance(part, ToolCall)]
    text, is_cut = generation.log.text(), reason is FinishReason.LENGTH
    whole = calls[:-1] if is_cut else calls
    wrong = [call for call in whole if call.name not in SCHEMAS or not fits(call)]
    if wrong or "tool_call>" in text or (choice.is_required and text.strip()):
        print(f"seed {seed}: {text!r} {calls}")
        return "wrong"
    if choice.is_required and not calls:
        return "cut off before a call" if is_cut else "wrong"
    said = "calls" if calls else "text"
    return f"{said}, cut off" if is_cut else said


def fits(call: ToolCall) -> bool:
    return Checker(SCHEMAS[call.name], "tools").problem(call.arguments) is None


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--model", default="demo")
    given = parser.parse_args()
    assembly = assemble(ModelSettings(model=given.model))
    await assembly.answers.start()
    await assembly.engine.ready()
    seats, counts = asyncio.Semaphore(AT_ONCE), dict[str, Counter[str]]()

    async def seated(choice: ToolChoice, seed: int) -> str:
        async with seats:
            return await draw(assembly.answers, choice, seed)

    for name, choice in CHOICES.items():
        found = await asyncio.gather(*(seated(choice, seed) for seed in range(given.draws)))
        counts[name] = Counter(found)
        print(name, dict(counts[name]), flush=True)
    await assembly.answers.stop()
    print(json.dumps({"draws": given.draws, **counts}))
    return int(any(found["wrong"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
