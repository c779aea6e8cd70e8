"""The grammar of an answer that may call tools: text, or what a format asks for, or calls.

What it lets begin a call is what the reader of answers looks for, and no text may begin so; see
llamastream.tools. Behind that each call is spelled as its format was trained to be.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llamastream.errors import InvalidRequest
from llamastream.grammar.limits import read_schema
from llamastream.grammar.pythonic import SHARED, Pythonic
from llamastream.grammar.spelling import SPACED, Json, of_schema, quote
from llamastream.tools import ANY_NAME, ANY_WHITE, CallRules, CallSyntax, Tool
from llamastream.types import GrammarKind, GrammarSpec

VERSION = 2  # of what is written here: what one began no other can go on with
_ANY = r"(.|\n)*"
_OPEN = {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref"}
_OPEN |= {"allOf", "anyOf", "oneOf"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the text of a GrammarSpec of calls says."""

    rules: CallRules
    tools: tuple[Tool, ...]  # that may be called
    is_required: bool
    takes_several: bool
    answer: GrammarSpec | None  # what an answer that is no call must keep to

    @classmethod
    def read(cls, text: str) -> "Asked":
        said: Json = json.loads(text)
        answer = said["answer"]
        return cls(
            CallRules.from_json(said["rules"]),
            tuple(Tool(**fields) for fields in said["tools"]),
            said["is_required"],
            said["takes_several"],
            answer and GrammarSpec(**answer | {"kind": GrammarKind(answer["kind"])}),
        )


def parameters_of(tool: Tool) -> Any:
    """Its schema, of an object whose keys are known. Raises InvalidRequest."""
    schema = read_schema(tool.parameters, tool.param)
    kind = schema.get("type", "object") if isinstance(schema, dict) else None
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise InvalidRequest(
            f"{tool.param} must be a JSON schema of type object. Leave it out where there is "
            "nothing to be given.",
            param=tool.param,
        )
    closed = {} if _OPEN & schema.keys() else {"additionalProperties": False}
    return {**schema, "type": "object", **closed}


class CallGrammar:
    """Writes the grammars for one request."""

    def __init__(
        self,
        asked: Asked,
        of_input: dict[str, Json],
        lenient: frozenset[str] = frozenset(),
    ) -> None:
        """`of_input`: what the texts of tools that are called with one must keep to, where there is
        anything. `lenient`: the tools of whose schemas not all is enforced."""
        self._asked, self._format, self._lenient = asked, asked.rules.format, lenient
        self._of_input = of_input
        self._syntax = self._format.syntax
        self._bodies: list[Json] = []
        self._lines: list[str] = [*SHARED] if self._syntax is CallSyntax.PYTHONIC else []

    def bodies(self, answer: Json | None) -> list[Json]:
        """As the parser takes them, the first named `body`. Raises InvalidRequest."""
        tools = self._asked.tools
        for k, tool in enumerate(tools):
            self._add_tool(k, tool)
        is_raw = [tool.input_syntax is not None for tool in tools]
        calls = " | ".join(f"c{k}" for k, raw in enumerate(is_raw) if not raw)
        raws = " | ".join(f"c{k}" for k, raw in enumerate(is_raw) if raw)
        opening, closing = self._around_call()
        before, between, after = self._around_calls()
        if raws:
            self._lines.append(f"raw: {opening} ({raws})")
        if calls:
            ends = [after] + ([f"{between} raw"] if raws and self._asked.takes_several else [])
            more = f"({between} call)*" if self._asked.takes_several else ""
            self._lines.append(f"call: {opening} ({calls}) {closing}")
            self._lines.append(f"tail: {more} ({' | '.join(ends)})")
        ways = (["call tail"] if calls else []) + (["raw"] if raws else [])
        self._lines.append(f"all: {before} ({' | '.join(ways)})")
        if answer is not None:
            self._bodies.append(answer | {"name": "answer"})
        start = " | ".join(self._starts(has_answer=answer is not None))
        text = "\n".join([f"start: {start}", *self._lines])
        return [{"name": "body", "lark_grammar": text}, *self._bodies]

    def _add_tool(self, k: int, tool: Tool) -> None:
        """Its rule `c{k}`: a call from its name on."""
        name, is_tagged = tool.name, self._format.arguments is not None
        is_pythonic = self._syntax is CallSyntax.PYTHONIC
        if tool.input_syntax is not None:
            behind = "(" if is_pythonic else "" if is_tagged else '"}'
            body = self._of_input.get(name, {"lark_grammar": f"start: /{_ANY}/"})
            self._bodies.append(body | {"name": f"a{k}"})
            tag = f"<[{self._format.arguments}]>" if is_tagged else ""
            self._lines.append(f'c{k}: {quote(name + behind)} {tag} "\\n" @a{k}')
            return
        schema, is_lenient = parameters_of(tool), name in self._lenient
        if is_pythonic:
            arguments = Pythonic(f"p{k}", schema, tool.param, is_lenient=is_lenient)
            self._lines += [f"c{k}: {quote(name + '(')} p{k}", *arguments.lines]
            self._bodies += arguments.bodies
            return
        self._bodies.append(
            of_schema(schema, is_lenient=is_lenient, separators=SPACED) | {"name": f"a{k}"}
        )
        if is_tagged:
            self._lines.append(f"c{k}: {quote(name)} <[{self._format.arguments}]> @a{k}")
        else:
            head = quote(f'{name}", "{self._format.key}": ')
            self._lines.append(f'c{k}: {head} @a{k} "}}"')

    def _around_call(self) -> tuple[str, str]:
        if self._syntax in (CallSyntax.HERMES, CallSyntax.GENERIC):
            end = self._format.end
            return quote('\n{"name": "'), quote("\n") + " " + (
                quote("</tool_call>") if end is None else f"<[{end}]>"
            )
        is_json = self._syntax is not CallSyntax.PYTHONIC and self._format.arguments is None
        return (quote('{"name": "') if is_json else ""), ""

    def _around_calls(self) -> tuple[str, str, str]:
        """What is before the first, between two, and behind the last."""
        end = '""' if self._format.end is None else f"<[{self._format.end}]>?"
        match self._syntax:
            case CallSyntax.PYTHONIC:
                return quote("["), quote(", "), f"{quote(']')} {end}"
            case CallSyntax.LLAMA:
                return "", "", end
            case CallSyntax.MISTRAL if self._format.arguments is None:
                return '" "? "["', quote(", "), quote("]")
            case CallSyntax.MISTRAL:
                return "", self._mark, '""'
            case _:
                return "", f"{quote(chr(10))} {self._mark}", '""'

    @property
    def _mark(self) -> str:
        begin, mark = self._format.begin, self._format.mark
        return f"<[{begin}]>" if begin is not None else quote(mark) if mark else ""

    def _starts(self, *, has_answer: bool) -> Iterator[str]:
        """The ways in which an answer may begin. Adds the rules that they need."""
        mark, text_mark = self._mark, self._format.mark
        heads = [head.pattern for head in self._asked.rules.heads]
        if self._asked.is_required or has_answer:
            yield f"{mark}? all" if heads and mark and not text_mark else f"{mark} all"
            if not self._asked.is_required:
                yield "@answer"
            return
        yield "text"
        if text_mark:
            found = f"{_ANY}{re.escape(text_mark)}"
            self._lines += [f"trigger[lazy]: /{found}/", "trigger_free: trigger all"]
            yield "trigger_free"
            self._add_text(f"{found}{_ANY}")
            return
        if mark:
            yield f"text {mark} all"
        if self._syntax is CallSyntax.LLAMA:
            self._add_text(f"({'|'.join(heads)}){_ANY}")
            ways = " | ".join(f"c{k}" for k in range(len(self._asked.tools)))
            self._lines.append(f"HEAD: /{'|'.join(heads)}/")
            yield f"HEAD ({ways}) {self._around_calls()[2]}"
        elif heads:
            self._add_text(rf"{ANY_WHITE}\[{ANY_WHITE}{ANY_NAME}{ANY_WHITE}\({_ANY}")
            for k, tool in enumerate(self._asked.tools):
                yield self._pythonic_start(k, tool, heads[k])
        else:
            self._add_text(None)

    def _pythonic_start(self, k: int, tool: Tool, head: str) -> str:
        self._lines.append(f"HEAD{k}: /{head}/")
        return f'HEAD{k} "\\n" @a{k}' if tool.input_syntax else f"HEAD{k} p{k} tail"

    def _add_text(self, forbidden: str | None) -> None:
        but = "" if forbidden is None else f" & ~/{forbidden}/"
        self._lines += ["text: TEXT", f"TEXT: /{_ANY}/{but}"]
