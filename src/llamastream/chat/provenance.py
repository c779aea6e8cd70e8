"""Which characters of a rendered prompt come from the template, and which from the conversation.

The conversation is rendered a second time with masked contents: every character that occurs in a
control token is replaced, one for one, by a stand-in that nobody has used. If that text, with the
stand-ins put back, is the first one, then each character is known for what it is, through trims,
slices and joins; and control tokens are looked for in the masked text, where contents hold none.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from llamastream.errors import InvalidRequest

Render = Callable[[Sequence[str]], str | None]
"""Renders the conversation with these contents; None if the template fails on them."""

MAX_WORDS_TRIED = 8  # a render each; templates look for one or two words in contents
_FIRST_STAND_IN = 0xF0000  # plane 15, private use: case, width and white space tests pass it by


def mask_contents(
    text: str,
    contents: Sequence[str],
    render: Render,
    *,
    control_texts: Iterable[str],
    inspected: Iterable[str],
) -> str:
    """`text`, what `contents` render to, with the characters masked that came from them.

    `inspected` are the strings that the template may look for in contents, such as `</think>`.
    Where masking them changes the outcome, they stay unmasked, as long as no control token can be
    spelled with them. Raises InvalidRequest if origins cannot be told and it might matter.
    """
    control_texts = tuple(control_texts)
    control = frozenset("".join(control_texts))
    for unmasked in _attempts(contents, inspected):
        if not any(unmasked.issuperset(control_text) for control_text in control_texts):
            masked = _masked_text(text, contents, render, control - unmasked)
            if masked is not None:
                return masked
    _refuse_risky(contents, control_texts)
    return text


def _attempts(contents: Sequence[str], inspected: Iterable[str]) -> Iterator[frozenset[str]]:
    """What to leave unmasked: nothing, then each inspected word that occurs, then all of them."""
    yield frozenset()
    found = [word for word in inspected if any(word in content for content in contents)]
    found.sort(key=lambda word: (-len(word), word))
    yield from map(frozenset, found[:MAX_WORDS_TRIED])
    if len(found) > 1:
        yield frozenset("".join(found))


def _masked_text(
    text: str, contents: Sequence[str], render: Render, characters: frozenset[str]
) -> str | None:
    """`text` with `characters` that came from contents replaced, or None if it cannot be told."""
    present = sorted(c for c in characters.intersection("".join(contents)) if not c.isspace())
    if not present:
        return text
    taken = set(map(ord, set(text).union(*contents)))
    free = (code for code in range(_FIRST_STAND_IN, 0x10FFFE) if code not in taken)
    stand_in = dict(zip(map(ord, present), free, strict=False))
    masked = render([content.translate(stand_in) for content in contents])
    original = {code: char for char, code in stand_in.items()}
    return masked if masked is not None and masked.translate(original) == text else None


def _refuse_risky(contents: Sequence[str], control_texts: Iterable[str]) -> None:
    """Contents from which no control token can be made are no danger, wherever they went."""
    joined = "".join(contents)
    letters = set(joined + joined.lower() + joined.upper())
    for control_text in control_texts:
        if letters.issuperset(c for c in control_text if not c.isspace()):
            raise InvalidRequest(
                f"messages must not hold all the characters of {control_text}: the model's chat "
                "template rewrites what it is given, so that a turn could be forged.",
                param="messages",
            )
