"""Prompts by a checkpoint's own chat template, as Hugging Face's `apply_chat_template` makes them.

The template is compiled once. What it renders is cut at the control tokens that the template itself
wrote; all else, whatever it looks like, is encoded as plain text.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any

from jinja2 import Template, TemplateError

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text.budget import Budget, OverBudget
from llamastream.text.llama2 import TAGS, check_tags
from llamastream.text.provenance import Literals, mask_contents, refuse_risky
from llamastream.text.sandbox import BoundedEnvironment
from llamastream.text.tokenizer import Tokenizer
from llamastream.types import Message

MAX_SOURCE_CHARS = 256 * 1024  # the longest published templates are a tenth of it
OTHER_TEMPLATE = "Choose another one: --chat-template llama2|llama3|chatml|FILE."


class JinjaFormat:
    """One compiled template. Thread-safe: renders take turns."""

    def __init__(self, tokenizer: Tokenizer, source: str, *, allow_prompt_tags: bool) -> None:
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
        self._lock = Lock()
        checked = () if allow_prompt_tags else TAGS
        self._tags = [t for t in checked if t in source and t not in tokenizer.special_texts]
        self._variables = self._special_variables()
        self._check_ends()

    def build(self, messages: Sequence[Message]) -> list[int]:
        """Raises InvalidRequest if the template refuses `messages`, or a turn could be forged."""
        for index, message in enumerate(messages):
            check_tags(index, message, self._tags)
        with self._lock:
            self._start(messages)
            text = self._render(messages)
            masked = self._masked(text, messages)
        segments = self._tokenizer.split_special(text, masked)
        return self._tokenizer.with_bos(self._tokenizer.encode_segments(segments))

    def render(self, messages: Sequence[Message]) -> str:
        with self._lock:
            self._start(messages)
            return self._render(messages)

    def _start(self, messages: Sequence[Message]) -> None:
        """Give all renders of one request the same moment, and one budget together."""
        self._now = datetime.now()
        self._environment.budget = Budget(sum(map(len, _texts(messages))))

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
                f"The chat template does not compile: {error}. {OTHER_TEMPLATE}"
            ) from error

    def _masked(self, text: str, messages: Sequence[Message]) -> str:
        """`text` with everything masked that could be a control token and is not the template's."""
        contents = _texts(messages)
        control_texts = self._tokenizer.special_texts
        masked = mask_contents(
            text, contents, lambda c: self._render_others(messages, c), control_texts
        )
        if masked is None:
            masked = self._masked_by_literals(text, messages, contents)
        if masked is None:
            refuse_risky(contents, control_texts)
        return text if masked is None else masked

    def _masked_by_literals(
        self, text: str, messages: Sequence[Message], contents: Sequence[str]
    ) -> str | None:
        if self._marked is None:
            literals = Literals(self._tokenizer.special_texts)
            self._marked = literals, self._compile(self._source, literals)
        literals, template = self._marked
        variables = {name: literals.mark(value) for name, value in self._variables.items()}
        try:
            marked = self._render(messages, template, variables)
        except InvalidRequest:
            return None
        return literals.masked(text, contents, marked)

    def _special_variables(self) -> dict[str, str]:
        tokenizer = self._tokenizer
        ids = {
            "bos_token": tokenizer.bos_token_id,
            "eos_token": next(iter(tokenizer.eos_token_ids), None),
        }
        return {name: tokenizer.token_text(i) for name, i in ids.items() if i is not None}

    def _check_ends(self) -> None:
        """Find an endless template when it is loaded, not with the first request."""
        try:
            self.render([Message("user", "Hello")])
        except InvalidRequest:  # it may want other roles; that is for a request to learn
            pass

    def _render_others(self, messages: Sequence[Message], contents: Sequence[str]) -> str | None:
        """The prompt with `contents` in the place of `_texts(messages)`."""
        others = iter(contents)
        try:
            return self._render(
                [
                    Message(m.role, next(others), None if m.name is None else next(others))
                    for m in messages
                ]
            )
        except InvalidRequest:
            return None

    def _render(
        self,
        messages: Sequence[Message],
        template: Template | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        try:
            return (template or self._template).render(
                messages=list(map(_variables, messages)),
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **(variables or self._variables),
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
        return self._now.strftime(form)


def _texts(messages: Iterable[Message]) -> list[str]:
    """All that the messages' authors wrote."""
    return [text for m in messages for text in (m.content, m.name) if text is not None]


def _variables(message: Message) -> dict[str, str]:
    """A message as templates know it."""
    name = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": message.content, **name}


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
