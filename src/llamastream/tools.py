"""Tools that a request offers, and how a model writes calls of them.

Knows no wire format, no template and no grammar. What starts a call is said here once: the grammar
lets nothing else start one, and the reader of answers looks for nothing else.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal, Self

WHITE = " \t\r\n"
ANY_WHITE = r"[ \t\r\n]*"
ANY_NAME = r"[A-Za-z0-9_.:-]+"  # of a function, in the regular expressions of grammars, too
NAMESPACE_MARK = ":"  # behind a namespace's name; no name that a client gives has one
NO_PARAMETERS = '{"type":"object","properties":{},"additionalProperties":false}'
InputSyntax = Literal["text", "lark", "regex"]


class CallSyntax(StrEnum):
    LLAMA = "llama"  # {"name": "f", "parameters": {...}} as the answer, or behind a token
    PYTHONIC = "pythonic"  # [f(a=1), g()] as the answer, or behind a token
    HERMES = "hermes"  # <tool_call> {"name": "f", "arguments": {...}} </tool_call>
    MISTRAL = "mistral"  # [TOOL_CALLS] [{"name": "f", "arguments": {...}}], or [TOOL_CALLS]f[ARGS]{
    GENERIC = "generic"  # as Hermes, explained by us: the template knows no tools


MARKS = {
    CallSyntax.HERMES: "<tool_call>",
    CallSyntax.GENERIC: "<tool_call>",
    CallSyntax.MISTRAL: "[TOOL_CALLS]",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """`parameters`: a JSON schema as text. With `input_syntax` it is called with a text instead,
    which keeps to `definition` if it is none of any kind. `param`: the request's field."""

    name: str
    description: str | None = None
    parameters: str = NO_PARAMETERS
    strict: bool = False
    input_syntax: InputSyntax | None = None
    definition: str = ""
    param: str = "tools"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools may be called (None: all), whether one must be, and whether several may be: None
    as the model's format has it."""

    is_required: bool = False
    names: tuple[str, ...] | None = None
    parallel: bool | None = None


AUTO = ToolChoice()


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One model's. The tokens, where its vocabulary has them, are what calls begin behind, what
    they end with, and what stands between a name and arguments."""

    syntax: CallSyntax
    begin: int | None = None
    end: int | None = None
    arguments: int | None = None

    @property
    def mark(self) -> str | None:
        """The text that calls begin behind, where no token is it."""
        return MARKS.get(self.syntax) if self.begin is None else None

    @property
    def can_tell_from_format(self) -> bool:
        """Whether a call and JSON of some other kind begin differently."""
        return self.syntax is not CallSyntax.LLAMA or self.begin is not None

    @property
    def takes_several(self) -> bool:
        """Whether an answer may hold more calls than one."""
        return self.syntax is not CallSyntax.LLAMA

    @property
    def key(self) -> str:
        """What JSON calls the arguments."""
        return "parameters" if self.syntax is CallSyntax.LLAMA else "arguments"

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(i for i in (self.begin, self.end, self.arguments) if i is not None)


GENERIC = ToolFormat(CallSyntax.GENERIC)


@dataclass(frozen=True, slots=True)
class CallRules:
    """What a reader of an answer must know to find its calls."""

    format: ToolFormat
    names: tuple[str, ...]
    raw_names: tuple[str, ...] = ()  # of tools that are called with a text
    has_format: bool = False  # what is no call is not free: then a call can only be the whole

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        syntax = CallSyntax(fields["format"]["syntax"])
        return cls(
            ToolFormat(**fields["format"] | {"syntax": syntax}),
            tuple(fields["names"]),
            tuple(fields["raw_names"]),
            fields["has_format"],
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def heads(self) -> tuple["Head", ...]:
        """What an answer that is a call may begin with, where nothing has to stand before it."""
        syntax = self.format.syntax
        if syntax is CallSyntax.PYTHONIC:
            return tuple(Head(("[", name, "(")) for name in self.names)
        if syntax is not CallSyntax.LLAMA:
            mark = self.format.mark
            return (Head((mark,)),) if self.has_format and mark else ()
        return () if self.has_format else tuple(map(Head, _LLAMA_HEADS))


_LLAMA_HEADS = (
    ("{", '"name"', ":", '"'),
    ("{", '"type"', ":", '"function"', ",", '"name"', ":", '"'),
)


@dataclass(frozen=True, slots=True)
class Head:
    """Texts in order, with white space before and between them."""

    texts: tuple[str, ...]

    @property
    def pattern(self) -> str:
        return "".join(ANY_WHITE + re.escape(text) for text in self.texts)

    def meets(self, text: str) -> int | None:
        """Where it ends in `text`. 0: `text` may only be the beginning of it; None: it is not."""
        place = 0
        for expected in self.texts:
            while place < len(text) and text[place] in WHITE:
                place += 1
            found = text[place : place + len(expected)]
            if found != expected:
                return 0 if expected.startswith(found) and place + len(found) == len(text) else None
            place += len(expected)
        return place


def name_in(namespace: str | None, name: str) -> str:
    """What the model calls it."""
    return name if namespace is None else f"{namespace}{NAMESPACE_MARK}{name}"


def split_name(name: str) -> tuple[str | None, str]:
    """Its namespace, and its name there."""
    namespace, mark, inner = name.partition(NAMESPACE_MARK)
    return (namespace, inner) if mark else (None, name)


def call_id(response_id: str, choice: int, index: int) -> str:
    """The same for every reader, and after a restart."""
    digest = hashlib.sha256(f"{response_id}/{choice}/{index}".encode()).hexdigest()
    return f"call_{digest[:24]}"
