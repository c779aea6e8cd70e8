"""Prompts by a checkpoint's own chat template, as Hugging Face's `apply_chat_template` makes them.

The template is compiled once. What it renders is cut at the control tokens that the template itself
wrote; all else, whatever it looks like, is encoded as plain text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from threading import local
from typing import Any

from jinja2 import Template, TemplateError, meta

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text.bounds import check_room
from llamastream.text.budget import Budget, OverBudget
from llamastream.text.conversation import (
    Conversation,
    check_known,
    check_thinking,
    check_tools,
    check_variables,
)
from llamastream.text.llama2 import TAGS, check_tags
from llamastream.text.probe import Probe, control_texts, probe
from llamastream.text.provenance import Literals, mask_contents, refuse_risky
from llamastream.text.sandbox import BoundedEnvironment
from llamastream.text.tokenizer import REASONING_TAGS, Tokenizer
from llamastream.text.tool_prompts import definition, find_format, template_messages
from llamastream.tools import Tool
from llamastream.types import PLAIN_PROMPT, Message, PromptOptions

MAX_SOURCE_CHARS = 256 * 1024  # the longest published templates are a tenth of it
OTHER_TEMPLATE = "Choose another one: --chat-template llama2|llama3|chatml|FILE."


class JinjaFormat:
    """One compiled template. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: str,
        *,
        allow_prompt_tags: bool,
        tool_format: str | None = None,
    ) -> None:
        """Raises ModelError for a template that does not compile, or does not end."""
        self._tokenizer = tokenizer
        self._environment = BoundedEnvironment({"tojson": _to_json})
        self._environment.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
        }
        self._source = source
        self._template = self._compile(source)
        self._marked: tuple[Literals, Template] | None = None  # made when first needed
        self._moment = local()  # of the render that a thread is in
        self.plain_marks = [t for t in control_texts(source) if t not in tokenizer.special_texts]
        tags = [tag for tag in TAGS if tag in source and tag not in tokenizer.special_texts]
        self._tags = [] if allow_prompt_tags else [*tags, *self.plain_marks]
        self._variables = self._special_variables()
        self._known = meta.find_undeclared_variables(self._environment.parse(source))
        # Whether its model may reason, told by what the template or the vocabulary knows.
        self.reasons = any(
            tag in source or tokenizer.token_id(tag) is not None for tag in REASONING_TAGS
        )
        self.probe = Probe()
        self.probe = probe(self._render_probe)
        self.tool_format = find_format(self._render_tools, tokenizer, tool_format)

    def build(
        self,
        messages: Sequence[Message],
        options: PromptOptions = PLAIN_PROMPT,
        room: int | None = None,
    ) -> list[int]:
        """Raises InvalidRequest if the template refuses `messages`, or a turn could be forged."""
        text, masked = self._rendered(self._conversation(messages, options), room)
        segments = self._tokenizer.split_special(text, masked)
        return self._tokenizer.with_bos(self._tokenizer.encode_segments(segments))

    def render(self, messages: Sequence[Message], options: PromptOptions = PLAIN_PROMPT) -> str:
        return self._rendered(self._conversation(messages, options))[0]

    def _conversation(self, messages: Sequence[Message], options: PromptOptions) -> Conversation:
        """With whether to reason said as the template knows it. Raises InvalidRequest."""
        known, given = self._known, options.variables
        check_known(given, known, may_disable=not self.reasons)
        thinking = options.thinking
        if thinking is None or "enable_thinking" in given:
            return Conversation(messages, options)
        if "enable_thinking" in known:
            variables = {**given, "enable_thinking": thinking.is_on}
            return Conversation(messages, replace(options, variables=variables))
        check_thinking(thinking, reasons=self.reasons)
        return Conversation(messages, options)

    def _rendered(self, given: Conversation, room: int | None = None) -> tuple[str, str]:
        """The prompt, and the prompt masked. It stops where the answer goes on from.

        Raises DoesNotFit for one that is sure to take more than `room` tokens.
        """
        self._check(given)
        given, mark = given.marked() if given.options.continues else (given, None)
        self._start(given)
        text = self._render(given)
        check_room(self._tokenizer, text, room)
        masked = self._masked(text, given)
        if mark is None:
            return text, masked
        if text.count(mark) != 1:
            raise InvalidRequest(
                "continue_final_message needs a chat template that writes the last message once "
                "and to its end. This model's does not.",
                param="continue_final_message",
            )
        end = text.index(mark)
        return text[:end], masked[:end]

    def _check(self, given: Conversation) -> None:
        variables = given.options.variables
        check_variables(variables, frozenset(self._variables), self._tags)
        check_tools(given.options.tools, self._tags)
        for index, message in enumerate(given.messages):
            check_tags(index, message, self._tags)
            if self.probe.drops_system and message.role == "system":
                raise InvalidRequest(
                    f"messages[{index}].role must not be system: the model's chat template leaves "
                    "such messages out. Say it in the user's message.",
                    param=f"messages[{index}].role",
                )

    def _render_probe(self, messages: Sequence[Message], as_parts: bool) -> str:
        self.probe = Probe(as_parts=as_parts)
        given = Conversation(messages, PLAIN_PROMPT)
        self._start(given)
        return self._render(given)

    def _render_tools(self, messages: Sequence[Message], tools: tuple[Tool, ...]) -> str:
        given = Conversation(messages, PromptOptions(tools=tools))
        self._start(given)
        return self._render(given)

    def _start(self, given: Conversation) -> None:
        """Give all renders of one request the same moment, and one budget together."""
        self._moment.now = datetime.now()
        self._environment.budget = Budget(sum(map(len, given.texts())))

    def _compile(self, source: str, literals: Literals | None = None) -> Template:
        """The template, with its control tokens marked if `literals` are given."""
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelError(
                f"The chat template must have <= {MAX_SOURCE_CHARS} characters. "
                f"Given: {len(source)}. {OTHER_TEMPLATE}"
            )
        try:
            tree = self._environment.parse(source)
            return self._environment.from_string(literals.mark_code(tree) if literals else tree)
        except (TemplateError, OverBudget, SyntaxError, RecursionError, MemoryError) as error:
            raise ModelError(
                f"The chat template does not compile: {str(error).rstrip('.')}. {OTHER_TEMPLATE}"
            ) from error

    def _masked(self, text: str, given: Conversation) -> str:
        """`text` with everything masked that could be a control token and is not the template's."""
        contents = given.texts()
        control_texts = self._tokenizer.special_texts
        masked = mask_contents(
            text, contents, lambda c: self._render_other(given.with_texts(c)), control_texts
        )
        if masked is None:
            masked = self._masked_by_literals(text, given, contents)
        if masked is None:
            refuse_risky(contents, control_texts)
        return text if masked is None else masked

    def _masked_by_literals(
        self, text: str, given: Conversation, contents: Sequence[str]
    ) -> str | None:
        if self._marked is None:
            literals = Literals(self._tokenizer.special_texts)
            self._marked = literals, self._compile(self._source, literals)
        literals, template = self._marked
        variables = {name: literals.mark(value) for name, value in self._variables.items()}
        try:
            marked = self._render(given, template, variables)
        except InvalidRequest:
            return None
        return literals.masked(text, contents, marked)

    def _special_variables(self) -> dict[str, str]:
        tokenizer = self._tokenizer
        ids = {
            "bos_token": tokenizer.bos_token_id,
            "eos_token": next(iter(tokenizer.eos_token_ids), None),
        }
        known = {name: tokenizer.token_text(i) for name, i in ids.items() if i is not None}
        return known | tokenizer.config.template_variables

    def _render_other(self, other: Conversation) -> str | None:
        try:
            return self._render(other)
        except InvalidRequest:
            return None

    def _render(
        self,
        given: Conversation,
        template: Template | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        options = given.options
        try:
            return (template or self._template).render(
                {
                    **options.variables,
                    "messages": template_messages(given.messages, as_parts=self.probe.as_parts),
                    "add_generation_prompt": options.add_generation_prompt
                    and not options.continues,
                    "tools": list(map(definition, options.tools)) or None,
                    "documents": None,
                    **(variables or self._variables),
                }
            )
        except OverBudget as error:
            raise ModelError(f"The chat template {error}. {OTHER_TEMPLATE}") from error
        except RecursionError as error:
            raise ModelError(
                f"The chat template calls itself too deep. {OTHER_TEMPLATE}"
            ) from error
        except _RefusedError as error:
            raise InvalidRequest(
                f"messages are refused by the model's chat template: {error}", param="messages"
            ) from error
        except Exception as error:  # a template is foreign code and may fail in any way
            raise InvalidRequest(
                "messages cannot be put into the model's chat template: "
                f"{type(error).__name__}: {error}",
                param="messages",
            ) from error

    def _strftime_now(self, form: str) -> str:
        now: datetime = self._moment.now
        return now.strftime(form)


class _RefusedError(TemplateError):
    pass


def _raise_exception(message: object) -> None:
    raise _RefusedError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, with the defaults that published templates were written for."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
