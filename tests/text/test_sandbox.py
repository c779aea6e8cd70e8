"""A hostile template ends in a clear error, soon, and reaches nothing outside of it."""

import time

import pytest
from chat_builders import TEMPLATES, WHOLE, chat

from llamastream.errors import InvalidRequest, ModelError
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.text.budget import MAX_SECONDS
from llamastream.text.jinja import JinjaFormat

DOUBLING = (
    "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = STEP %}{% endfor %}"
)


def twice(step: str, *, then: str = "") -> str:
    """A template that makes `ns.s` twice as large 99 times, and uses it."""
    return DOUBLING.replace("STEP", step) + then


HOSTILE = {
    "nested loops": (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "loops over texts": (
        "{% set t = 'a' * 9999 %}{% for a in t %}{% for b in t %}{% endfor %}{% endfor %}"
    ),
    "long output": "{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "doubling by ~": twice("ns.s ~ ns.s", then="{{ ns.s | length }}"),
    "doubling by +": twice("ns.s + ns.s", then="{{ ns.s | length }}"),
    "doubling by a list": twice("[ns.s, ns.s]", then="{{ ns.s }}"),
    "doubling by a tuple": twice("(ns.s, ns.s)", then="{{ ns.s == ns.s }}"),
    "doubling by a dict": twice("{1: ns.s, 2: ns.s}", then="{{ ns.s | tojson }}"),
    "doubling by a call": twice("dict(a=ns.s, b=ns.s)", then="{{ ns.s }}"),
    "doubling by join": twice("[ns.s, ns.s] | join"),
    "doubling by replace": twice("ns.s.replace('a', ns.s)"),
    "doubling by set": ("{% set a = 'ab' %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 99),
    "doubling by a macro": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) ~ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "many copies": "{{ [('a' * 999999)] * 9999 }}",
    "joined copies": "{{ ('a' * 999999).join(['b'] * 9999) }}",
    "huge text": "{{ 'a' * 10**10 }}",
    "huge list": "{{ [1] * 10**10 }}",
    "huge number": "{{ 9 ** (9 ** 9) }}",
    "huge product": twice("9 if ns.s == 'ab' else ns.s * ns.s"),
    "huge padding": "{{ 'a'.ljust(10**10) }}",
    "huge indent": "{{ 'a' | indent(10**10) }}",
    "huge format": "{{ '{:>9999999999}'.format('a') }}",
    "huge nested format": "{{ '{:>{w}}'.format('a', w=9999999999) }}",
    "huge printf": "{{ '%9999999999d' % 1 }}",
    "huge printf filter": "{{ '%9999999999d' | format(1) }}",
    "huge printf by argument": "{{ '%*d' % (9999999999, 1) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "endless loop recursion": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "branching loop recursion": (
        "{% for x in [1, 2] recursive %}"
        "{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_does_too_much_is_refused_when_it_is_loaded(
    byte_level: Tokenizer, name: str
) -> None:
    started = time.thread_time()
    with pytest.raises(ModelError, match="chat template .* --chat-template"):
        JinjaFormat(byte_level, HOSTILE[name], allow_prompt_tags=False)
    assert time.thread_time() - started < 2 * MAX_SECONDS


def test_a_template_that_does_too_much_only_later_is_refused_then(byte_level: Tokenizer) -> None:
    source = WHOLE + "{% if messages | length > 4 %}" + HOSTILE["nested loops"] + "{% endif %}"
    template = JinjaFormat(byte_level, source, allow_prompt_tags=False)
    with pytest.raises(ModelError, match="chat template does more work"):
        template.render(chat(*"abcde"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ ''.__class__.__mro__[1] }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ namespace(__class__=1) }}",
        "{{ (1).to_bytes(9, 'big') }}",
        "{% include 'other' %}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__.__mro__}'.format('a') }}",
    ],
)
def test_a_template_cannot_reach_out(byte_level: Tokenizer, source: str) -> None:
    template = JinjaFormat(byte_level, source, allow_prompt_tags=False)
    with pytest.raises(InvalidRequest, match="cannot be put into"):
        template.render(chat("a"))


def test_a_template_cannot_draw_random_numbers(byte_level: Tokenizer) -> None:
    with pytest.raises(ModelError, match="random"):
        JinjaFormat(byte_level, "{{ [1, 2] | random }}", allow_prompt_tags=False)


def test_an_enormous_template_is_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(ModelError, match="must have <= 262144 characters"):
        JinjaFormat(byte_level, "a" * 300_000, allow_prompt_tags=False)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_long_honest_conversation_is_within_the_budget(
    byte_level: Tokenizer, tmp_path: object, name: str
) -> None:
    messages = chat(*["some words here\n" * 40] * 601)
    template = JinjaFormat(byte_level, TEMPLATES[name], allow_prompt_tags=False)
    assert len(template.render(messages)) > 300_000


def test_loop_variables_work_as_usual(byte_level: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"
        "{{ loop.previtem.content if loop.previtem }}{{ loop.cycle('x', 'y') }} {% endfor %}"
    )
    text = JinjaFormat(byte_level, WHOLE + source, allow_prompt_tags=False).render(chat("a", "b"))
    assert text == "1/2TrueFalsex 2/2FalseTrueay "


def test_builders_share_nothing(byte_level: Tokenizer) -> None:
    first = PromptBuilder.from_config(byte_level, "chatml")
    assert first.render(chat("a")) == first.render(chat("a"))
