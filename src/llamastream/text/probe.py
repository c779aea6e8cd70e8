"""What a chat template does with a fixed conversation, found out before anybody chats.

Knows no Jinja and no vocabulary: it renders, and looks for what it gave. The invariant: a template
that passes writes every content it is given into the prompt, or says which role it leaves out.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llamastream.errors import InvalidRequest, ModelError
from llamastream.types import Message

CONVERSATION = (
    Message("system", "juniper"),
    Message("user", "kestrel"),
    Message("assistant", "lantern"),
    Message("user", "marigold"),
)
WAY_OUT = "Choose another template: --chat-template llama2|llama3|chatml|FILE."
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# Files converted by hand often forget to flag these; as ordinary tokens they could be typed.
CONTROL_SHAPE = re.compile(r"<[|\uff5c][^|\uff5c<>\s]{1,64}[|\uff5c]>")
_MARK = re.compile(r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,64}\]")

Render = Callable[[Sequence[Message], bool], str]
"""Messages and whether their contents are given as parts -> the prompt. Raises InvalidRequest."""


class Probe(NamedTuple):
    """as_parts: contents must be lists of parts. lacks_system: it leaves such messages out
    (drops_system), or refuses them. after_answer: what follows an assistant's content.
    refusal: why it took no conversation at all, in which case nothing else was found out.
    """

    as_parts: bool = False
    drops_system: bool = False
    after_answer: str = ""
    refusal: str = ""
    lacks_system: bool = False


def probe(render: Render) -> Probe:
    """Raises ModelError for a template that loses what a user or the assistant said."""
    lost: list[Message] = []
    refusal = ""
    for as_parts in (False, True):
        for messages in (CONVERSATION, CONVERSATION[1:]):  # some refuse a system message
            try:
                text = render(messages, as_parts)
            except InvalidRequest as error:
                refusal = refusal or error.message
                continue
            missing = [m for m in messages if m.text not in text.lower()]
            if all(message.role == "system" for message in missing):
                lacks = bool(missing) or messages is not CONVERSATION
                return Probe(as_parts, bool(missing), _after_answer(text), lacks_system=lacks)
            lost = lost or missing
    if lost:
        raise ModelError(
            f"The chat template loses what was said: of {len(CONVERSATION)} messages given to try "
            f"it, {lost[0].role}'s {lost[0].text!r} is not in the prompt. {WAY_OUT}"
        )
    return Probe(refusal=refusal)


def control_texts(source: str) -> list[str]:
    """What in a template's source has the shape of a control token, each once."""
    return list(dict.fromkeys(CONTROL_SHAPE.findall(_COMMENT.sub("", source))))


def end_mark(after_answer: str) -> str | None:
    """The mark that a prompt goes on with behind an answer: what may be the token that ends it."""
    found = _MARK.match(after_answer.lstrip())
    return None if found is None else found[0]


def _after_answer(text: str) -> str:
    answer = CONVERSATION[2].text
    return text[text.lower().rindex(answer) + len(answer) :]
