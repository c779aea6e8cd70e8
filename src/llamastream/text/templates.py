"""From a conversation to the token ids of its prompt: which format a model gets.

The formats themselves are next door: `llama2`, and `jinja` for all that is a template.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text.conversation import check_tools, strings_of
from llamastream.text.jinja import JinjaFormat
from llamastream.text.llama2 import TAGS, Llama2Format
from llamastream.text.probe import CONVERSATION, control_texts, end_mark
from llamastream.text.tokenizer import Tokenizer
from llamastream.text.tool_prompts import find_format, prepared
from llamastream.tools import GENERIC, ToolFormat
from llamastream.types import PLAIN_PROMPT, Message, PromptOptions

# Sources: github.com/meta-llama/llama3, llama/tokenizer.py, ChatFormat; and OpenAI's ChatML.
TEMPLATES = {
    "llama3": (
        "<|begin_of_text|>{% for message in messages %}"
        "<|start_header_id|>{{ message.role }}<|end_header_id|>"
        "{{ '\n\n' + message.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}"
        "<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message.role + '\n' + message.content }}"
        "<|im_end|>{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}{% endif %}"
    ),
}
_PROBES = (
    (Message("user", " a "),),
    (Message("system", " s "), Message("user", " a ")),
    (Message("user", "a"), Message("assistant", " b "), Message("user", "c ")),
)


class PromptFormat(Protocol):
    """One way to write a conversation down. `messages` holds at least one."""

    def build(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PLAIN_PROMPT,
        room: int | None = None,
    ) -> list[int]: ...

    def render(self, messages: Sequence[Message], options: PromptOptions = PLAIN_PROMPT) -> str: ...


class PromptBuilder:
    """Builds the prompts of one model. Thread-safe."""

    def __init__(
        self,
        prompt_format: PromptFormat,
        name: str = "none",
        warnings: Iterable[str] = (),
        template: str | None = None,
        *,
        reasons: bool = False,
        tool_format: ToolFormat = GENERIC,
        takes_system: bool = True,
    ) -> None:
        """`takes_system`: whether the format writes system messages."""
        self._format = prompt_format
        self.tool_format = tool_format
        self._takes_system = takes_system
        self.reasons = reasons  # whether answers may begin with reasoning
        self.template = template  # whose prompts these are, in Jinja, if there is one
        self.name = name  # of the format, for people
        self.warnings = tuple(warnings)  # what of model and template does not hold, one line each

    @classmethod
    def from_config(
        cls,
        tokenizer: Tokenizer,
        chat_template_option: str | None = None,
        *,
        allow_prompt_tags: bool = False,
        tool_format: str | None = None,
    ) -> Self:
        """Choose the format: the operator's option, else the checkpoint's own template.

        `tokenizer` learns from it which tokens are control tokens, and which end a turn. Raises
        ModelError if the format does not fit the tokenizer, does not compile or loses contents.
        """
        option = chat_template_option
        if option == "llama2":
            find_format(None, tokenizer, tool_format)
            return cls(Llama2Format(tokenizer, allow_prompt_tags=allow_prompt_tags), "llama2")
        own = tokenizer.config.chat_template
        source = own if option is None else _template(option, tokenizer)
        if source is None:
            return cls(_NoFormat(), warnings=_end_warnings(tokenizer))
        tokenizer.adopt(texts=control_texts(source))
        jinja = JinjaFormat(
            tokenizer, source, allow_prompt_tags=allow_prompt_tags, tool_format=tool_format
        )
        if option is None and _is_llama2(jinja, source, tokenizer):
            reference = Llama2Format(tokenizer, allow_prompt_tags=allow_prompt_tags)
            return cls(reference, "llama2, which the model's own template writes", (), source)
        end = _turn_end(tokenizer, jinja.probe.after_answer)
        tokenizer.adopt(ends=[] if end is None else [end])
        warnings = [*_template_warnings(jinja), *_end_warnings(tokenizer)]
        _check_ids(tokenizer, jinja)
        return cls(
            jinja,
            option or "the model's own template",
            warnings,
            source,
            reasons=jinja.reasons,
            tool_format=jinja.tool_format,
            takes_system=not jinja.probe.lacks_system,
        )

    def build(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PLAIN_PROMPT,
        room: int | None = None,
    ) -> list[int]:
        """Token ids of the prompt, up to where the answer begins.

        Raises InvalidRequest with the index of the message at fault, and DoesNotFit for what is
        sure to take more than `room` tokens; what takes a little more is returned.
        """
        messages, options = self._prepared(messages, options)
        return self._format.build(messages, options, room)

    def render(self, messages: Sequence[Message], options: PromptOptions = PLAIN_PROMPT) -> str:
        """The prompt as text, for people: contents cannot be told from control tokens in it."""
        messages, options = self._prepared(messages, options)
        return self._format.render(messages, options)

    def _prepared(
        self, messages: Sequence[Message], options: PromptOptions
    ) -> tuple[Sequence[Message], PromptOptions]:
        _check(messages)
        check_tools(options.tools, ())
        return prepared(messages, options, self.tool_format, takes_system=self._takes_system)


class _NoFormat:
    """What a model without a chat template gets: it completes text, and refuses to chat."""

    def build(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PLAIN_PROMPT,
        room: int | None = None,
    ) -> list[int]:
        raise InvalidRequest(
            "This model has no chat template, so it cannot chat; /v1/completions works. To chat, "
            "start the server with --chat-template llama2|llama3|chatml|FILE.",
            param="messages",
        )

    def render(self, messages: Sequence[Message], options: PromptOptions = PLAIN_PROMPT) -> str:
        raise AssertionError(self.build(messages, options))


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise InvalidRequest("messages must hold at least 1 message. Given: 0.", param="messages")
    for index, message in enumerate(messages):
        for field, text in strings_of(message):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(
                    f"messages[{index}].{field} must be valid Unicode: character {error.start} is "
                    "a lone surrogate.",
                    param=f"messages[{index}].{field}",
                ) from error


def _turn_end(tokenizer: Tokenizer, after_answer: str) -> int | None:
    """The single token that the template writes behind an assistant's message, if it does."""
    known = tokenizer.split_special(after_answer.lstrip())[:1]
    if known and isinstance(known[0], int):
        return known[0]
    mark = end_mark(after_answer)
    return None if mark is None else tokenizer.token_id(mark)


def _template_warnings(jinja: JinjaFormat) -> Iterator[str]:
    if jinja.probe.refusal:
        yield f"its chat template took no conversation given to try it: {jinja.probe.refusal}"
    if jinja.probe.drops_system:
        yield "its chat template leaves out system messages: requests with one are refused"
    if jinja.plain_marks:
        yield (
            f"{', '.join(jinja.plain_marks[:8])} of its chat template are no tokens: messages that "
            "hold one are refused, since it could forge a turn"
        )


def _end_warnings(tokenizer: Tokenizer) -> Iterator[str]:
    vocab_size = tokenizer.config.vocab_size
    if not tokenizer.eos_token_ids:
        yield "nothing ends its answers: neither its files nor its chat template name an end token"
    if vocab_size is not None and tokenizer.num_tokens > vocab_size:
        yield (
            f"its tokenizer has {tokenizer.num_tokens} tokens, the model {vocab_size}: those past "
            "it are of no use"
        )


def _check_ids(tokenizer: Tokenizer, jinja: JinjaFormat) -> None:
    """Raises ModelError for a template that writes tokens which the model does not have."""
    vocab_size = tokenizer.config.vocab_size
    if vocab_size is None or jinja.probe.refusal:
        return
    messages = CONVERSATION[1:]  # not all take a system message
    largest = max(jinja.build(messages), default=0)
    if largest >= vocab_size:
        raise ModelError(
            f"{tokenizer.config.source}: the chat template writes {tokenizer.token_text(largest)}, "
            f"token {largest}, but the model has {vocab_size} tokens. Tokenizer and weights do not "
            "belong together: download both again."
        )


def _template(option: str, tokenizer: Tokenizer) -> str:
    """One of ours, one that the model names, or the file `option`."""
    source = TEMPLATES.get(option)
    if source is None:
        return tokenizer.config.named_templates.get(option) or _read_template(option)
    for text in control_texts(source):
        if tokenizer.token_id(text) is None:
            raise ModelError(
                f"--chat-template {option} needs a tokenizer with the control token {text}."
            )
    return source


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            "--chat-template must be llama2, llama3, chatml, the name of one of the model's own "
            f"templates or a readable file with a Jinja template. Given: {path} ({error})."
        ) from error


def _is_llama2(jinja: JinjaFormat, source: str, tokenizer: Tokenizer) -> bool:
    """Whether a template writes what Meta's reference writes.

    Then the reference itself takes its place: it checks roles, and its tags are refused in
    contents, while the ids of what both accept are the same.
    """
    if not all(tag in source for tag in TAGS) or tokenizer.bos_token_id is None:
        return False
    reference = Llama2Format(tokenizer, allow_prompt_tags=True)
    try:
        return all(jinja.render(probe) == reference.render(probe) for probe in _PROBES)
    except InvalidRequest:
        return False
