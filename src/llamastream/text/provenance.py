"""Which characters of a rendered prompt come from the template, and which from the conversation.

Two ways to know, each sure when it succeeds. Both render the conversation once more and return the
prompt masked: as long as it was, and without a control token that the template did not write.

1. Mask contents: each of their characters that occurs in a control token is replaced, one for one,
   by a stand-in. If that text, with the stand-ins put back, is the first one, every character is
   known for what it is, through trims, slices and joins. A template that looks into the contents,
   for `</think>` say, may write something else; then the other way is tried.
2. Mark literals: each control token in the template's own code is replaced by a stand-in, and
   contents are what they are. It fails for a template that puts its tokens together from parts.
"""

from collections.abc import Callable, Iterable, Sequence

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from llamastream.errors import InvalidRequest

# Private use, plane 15 and 16: tests of case, width and white space pass them by.
_FIRST_STAND_IN = 0xF0000
_FIRST_LITERAL = 0x100000
_NOT_CONTROL = "\ufffe"  # no character at all, so in no control token


def mask_contents(
    text: str,
    contents: Sequence[str],
    render: Callable[[Sequence[str]], str | None],
    control_texts: Iterable[str],
) -> str | None:
    """`text` masked, or None if it is not what masked contents render to.

    text: what `contents` render to. `render` returns None if the template fails.
    """
    typed = set("".join(contents))
    present = sorted(c for c in set("".join(control_texts)) & typed if not c.isspace())
    if not present:
        return text
    taken = set(map(ord, typed.union(text)))
    free = (code for code in range(_FIRST_STAND_IN, _FIRST_LITERAL) if code not in taken)
    stand_in = dict(zip(map(ord, present), free, strict=False))
    masked = render([content.translate(stand_in) for content in contents])
    original = {code: char for char, code in stand_in.items()}
    return masked if masked is not None and masked.translate(original) == text else None


class Literals:
    """The control tokens in a template's code, each with a stand-in character."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        longest_first = sorted(control_texts, key=lambda text: (-len(text), text))
        self._stand_in = {text: chr(_FIRST_LITERAL + n) for n, text in enumerate(longest_first)}
        self._text = {ord(char): text for text, char in self._stand_in.items()}

    def mark(self, text: str) -> str:
        for control_text, char in self._stand_in.items():
            text = text.replace(control_text, char)
        return text

    def mark_code(self, tree: nodes.Template) -> nodes.Template:
        """Mark what the template writes, in place; what it compares with stays as it is."""
        marked: nodes.Template = _MarkLiterals(self).visit(tree)
        return marked

    def masked(self, text: str, contents: Sequence[str], marked: str) -> str | None:
        """`text` masked, or None if `marked`, rendered from marked code, does not account for it.

        A control token in `text` is accounted for if the code wrote it or a content holds it.
        """
        if marked.translate(self._text) != text:  # as when a content holds a stand-in
            return None
        for control_text, char in self._stand_in.items():
            typed = sum(content.count(control_text) for content in contents)
            if text.count(control_text) > marked.count(char) + typed:
                return None
        hidden = {ord(c): _NOT_CONTROL for c in "".join(self._stand_in)}
        return marked.translate(hidden | self._text)


class _MarkLiterals(NodeTransformer):
    """Marks constants that can only be written, leaving those that contents are compared with."""

    def __init__(self, literals: Literals) -> None:
        self._literals = literals

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._literals.mark(node.data)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if isinstance(node.value, str):
            node.value = self._literals.mark(node.value)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        if isinstance(node.node, nodes.Name):  # a macro, or `namespace`
            return self.generic_visit(node)
        node.node = self.visit(node.node)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        if node.node is not None:
            node.node = self.visit(node.node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node.node = self.visit(node.node)
        return node


def refuse_risky(contents: Sequence[str], control_texts: Iterable[str]) -> None:
    """Raise InvalidRequest unless contents can neither begin nor end a control token.

    Then none comes from them, wherever the template put them.
    """
    joined = "".join(contents)
    typed = set(joined + joined.lower() + joined.upper())
    borders = {char for text in control_texts for char in (text[0], text[-1])}
    for char in sorted(borders & typed):
        raise InvalidRequest(
            f"messages must not hold {char!r} here: the model's chat template rewrites what it is "
            "given in a way by which a turn could be forged. Choose another template: "
            "--chat-template llama2|llama3|chatml|FILE.",
            param="messages",
        )
