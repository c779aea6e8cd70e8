"""How long 128 tools take to compile, in each format.

    python -m bench.many_tools [--tools 128] [--rounds 9]

Each has six parameters of as many kinds. Milliseconds until the first mask, each round with other
names, so that nothing is known from before; the vocabulary is the demo's. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict

from llamastream.app import find_model
from llamastream.config import ModelSettings
from llamastream.generation.grammars import vocabulary_of
from llamastream.grammar import Grammars
from llamastream.text import Tokenizer
from llamastream.tools import CallRules, CallSyntax, Tool, ToolFormat
from llamastream.types import GrammarKind, GrammarSpec

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "Where it is."},
        "count": {"type": "integer", "minimum": 1, "maximum": 500},
        "ratio": {"type": "number"},
        "kind": {"enum": ["file", "folder", "link", "socket"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "range": {
            "type": "object",
            "properties": {"start": {"type": "integer"}, "end": {"type": "integer"}},
            "required": ["start"],
        },
    },
    "required": ["path", "kind"],
}


def spec_of(syntax: CallSyntax, num_tools: int, round: int) -> GrammarSpec:
    names = [f"tool_{round}_{k}" for k in range(num_tools)]
    tools = [Tool(name, f"Does {name}.", json.dumps(SCHEMA)) for name in names]
    format = ToolFormat(syntax)
    asked = {
        "rules": CallRules(format, tuple(names)).to_json(),
        "tools": list(map(asdict, tools)),
        "is_required": False,
        "takes_several": format.takes_several,
        "answer": None,
    }
    return GrammarSpec(GrammarKind.CALLS, json.dumps(asked), param="tools")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    tokenizer = Tokenizer(find_model(ModelSettings()).tokenizer)
    grammars = Grammars(lambda: vocabulary_of(tokenizer, tokenizer.num_tokens))
    began = time.perf_counter()
    grammars.vocabulary()
    found = {"vocabulary": round((time.perf_counter() - began) * 1000)}
    for syntax in CallSyntax:
        taken = []
        for number in range(given.rounds):
            spec = spec_of(syntax, given.tools, number)
            began = time.perf_counter()
            grammars.compile(spec, True).start().mask()
            taken.append((time.perf_counter() - began) * 1000)
        found[syntax.value] = round(statistics.median(taken), 1)
        print(f"{syntax.value}: median {found[syntax.value]} ms, longest {max(taken):.1f}")
    print(json.dumps({"tools": given.tools, **found}))


if __name__ == "__main__":
    main()
