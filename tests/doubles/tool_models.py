"""Models of every format of calls, each with a template in the manner of its family and with the
tokens that it has: bytes, and words of several, so that one text has many cuttings."""

from dataclasses import dataclass

from llamastream.config import TokenizerConfig
from llamastream.tools import CallSyntax
from tests.doubles.templates import ASK, PLAIN, QWEN3, R1, R1_CONTROL, TAGGED, TEMPLATES
from tests.doubles.tokenizer import byte_tokenizer_config

WORDS = (
    "tool",
    '": "',
    '{"name',
    "_call>",
    '"}',
    "weather",
    "I l",
    "Osl",
    "o (",
    "ments",
    "\n<",
    "</",
)
TAGS = ("<tool_call>", "</tool_call>")


@dataclass(frozen=True, slots=True)
class ToolModel:
    """`end`: what ends a turn. `thinks`: whether its template opens the reasoning itself."""

    template: str
    control: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    end: str = "<|im_end|>"
    thinks: bool = False

    @property
    def config(self) -> TokenizerConfig:
        return byte_tokenizer_config(
            reasons="<think>" in self.template,
            control=self.control,
            words=(*WORDS, *self.words),
            template=self.template,
        )


_OPENED = ASK.replace("assistant\n", "assistant\n<think>\n")
TOOL_MODELS = {
    "llama": ToolModel(TEMPLATES[CallSyntax.LLAMA]),
    "llama-token": ToolModel(TEMPLATES[CallSyntax.LLAMA], ("<|python_tag|>",)),
    "pythonic": ToolModel(TEMPLATES[CallSyntax.PYTHONIC]),
    "llama4": ToolModel(TEMPLATES[CallSyntax.PYTHONIC], ("<|python_start|>", "<|python_end|>")),
    "hermes": ToolModel(TEMPLATES[CallSyntax.HERMES]),
    "hermes-token": ToolModel(TEMPLATES[CallSyntax.HERMES], TAGS),
    "mistral": ToolModel(TEMPLATES[CallSyntax.MISTRAL], ("[TOOL_CALLS]",)),
    "mistral-text": ToolModel(TEMPLATES[CallSyntax.MISTRAL]),
    "mistral-tagged": ToolModel(TAGGED, ("[TOOL_CALLS]", "[ARGS]")),
    "generic": ToolModel(PLAIN),
    "r1": ToolModel(R1, R1_CONTROL, end=R1_CONTROL[2], thinks=True),
    "qwen3": ToolModel(QWEN3, words=TAGS),
    "llama-thinks": ToolModel(TEMPLATES[CallSyntax.LLAMA].replace(ASK, _OPENED), thinks=True),
    "llama4-thinks": ToolModel(
        TEMPLATES[CallSyntax.PYTHONIC].replace(ASK, _OPENED),
        ("<|python_start|>", "<|python_end|>"),
        thinks=True,
    ),
    "mistral-thinks": ToolModel(
        TEMPLATES[CallSyntax.MISTRAL].replace(ASK, _OPENED), ("[TOOL_CALLS]",), thinks=True
    ),
}
