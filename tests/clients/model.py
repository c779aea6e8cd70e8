"""A model that does as it is told: the user's turn says what it answers, line by line.

    call weather {"city": "Oslo"}      a call; calls on lines that follow each other are one answer
    then                               but for those with this between them
    call patch *** Begin Patch\\n...    of a custom tool: its text, with its new lines escaped
    think It may rain.                 reasoning, in front of what the next line says
    say It is cold.                    a text

The n-th answer behind that turn is the n-th step. What the grammar does not let it say, and what
nobody told it, it draws from the grammar: the shortest answer there is.
"""

import json
import re
from itertools import groupby

from llamastream.types import Constraint, GenerationRequest
from tests.doubles.tokenizer import END_THINK, IM_END, IM_START, THINK

STEP = re.compile(r"^[ \t]*(say|call|think|then)\b ?(.*)$", re.MULTILINE)
MAX_DRAWN = 4000
FIRST = b'"}])' + b"0" + b"\n,: "  # of what a grammar leaves open: what ends it soonest
# What suites ask in their own words.
PHRASES = {
    "magic_function(3)": 'call magic_function {"input": 3}',
    "magic_function_no_args()": "call magic_function_no_args {}",
    "a Pirate greeting": 'call greeting_generator {"answer_style": "pirate"}',
    "weather in San Francisco": 'call get_weather {"location": "San Francisco"}',
    "你好啊集团": 'call unicode_customer {"customer_name": "你好啊集团", "description": "new"}',
    "こんにちは株式会社": 'call unicode_customer {"customer_name": "こんにちは株式会社", '
    '"description": "new"}',
    "a joke about cats": 'say {"setup":"Why do cats purr?","punchline":"They can."}',
}


def answer(request: GenerationRequest) -> list[int]:
    """The ids of the whole answer."""
    prompt = list(request.prompt_ids)
    said = _told(prompt)
    ids = [*_ids(said, may_think=prompt[-2:] != [*b"\n\n"]), IM_END]
    if request.grammar is None:
        return ids
    return _within(request.grammar.start(), ids)


def _told(prompt: list[int]) -> str:
    turns = _turns(prompt)
    for place in range(len(turns) - 1, -1, -1):
        role, text = turns[place]
        if role != "user" or text.startswith("<tool_response>"):
            continue
        found = next((step for words, step in PHRASES.items() if words in text), text)
        steps = [(kind, rest) for kind, rest in STEP.findall(found)]
        if steps:
            number = sum(role == "assistant" for role, _ in turns[place + 1 :])
            answers = _answers(steps)
            return answers[number] if number < len(answers) else "I have said it all."
    return "Nobody told me what to say, so I say: hello, you."


def _turns(prompt: list[int]) -> list[tuple[str, str]]:
    """Role and text of each but the one that is to be answered."""
    turns, place = [], 0
    while IM_END in prompt[place:]:
        begin, end = prompt.index(IM_START, place) + 1, prompt.index(IM_END, place)
        role, _, text = bytes(i for i in prompt[begin:end] if i < 256).decode().partition("\n")
        turns.append((role, text))
        place = end + 1
    return turns


def _answers(steps: list[tuple[str, str]]) -> list[str]:
    """Calls that follow each other are one; reasoning belongs to what comes behind it."""
    found, thought = [], ""
    for kind, group in groupby(steps, key=lambda step: step[0]):
        texts = [text for _, text in group]
        if kind == "then":
            continue
        if kind == "think":
            thought = f"<think>\n{' '.join(texts)}\n</think>\n\n"
            continue
        made = ["\n".join(map(_call, texts))] if kind == "call" else texts
        found += [thought + made[0], *made[1:]]
        thought = ""
    return found


def _call(text: str) -> str:
    name, _, given = text.partition(" ")
    if given.startswith("{"):
        dumped = json.dumps(json.loads(given), ensure_ascii=False)
        return f'<tool_call>\n{{"name": "{name}", "arguments": {dumped}}}\n</tool_call>'
    return f'<tool_call>\n{{"name": "{name}"}}\n' + given.replace("\\n", "\n")


def _ids(text: str, *, may_think: bool) -> list[int]:
    if text.startswith("<think>"):
        thought, _, text = text.removeprefix("<think>").partition("</think>")
        if may_think:
            return [THINK, *thought.encode(), END_THINK, *text.encode()]
        text = text.lstrip("\n")
    return list(text.encode())


def _within(constraint: Constraint, wanted: list[int]) -> list[int]:
    """As much of what is wanted as the grammar allows, and then its shortest way to an end."""
    ids = wanted[: constraint.num_allowed(wanted[:-1])]
    constraint.append(ids)
    while len(ids) < MAX_DRAWN:
        mask = int.from_bytes(constraint.mask(), "little")
        allowed = [i for i in (IM_END, *FIRST, *range(256)) if mask >> i & 1]
        ids.append(allowed[0])
        if allowed[0] == IM_END:
            break
        constraint.append(ids[-1:])
    return ids
