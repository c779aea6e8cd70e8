"""How a client says that a conversation becomes a prompt: variables of the template, an answer that
was begun, no question at the end. transformers' ids again, and again no turn can be forged."""

from typing import Any

import pytest
from chat_builders import TEMPLATES, chat, config_of, dicts, examples, hostile_texts
from hypothesis import given
from test_jinja import random_conversation, transformers_tokenizer
from tokenizers import Tokenizer as HFTokenizer

from llamastream.errors import InvalidRequest
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import Message, PromptOptions

TURN = "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
THINKING = (
    "{% for message in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}"
    "{% endif %}{{ note or '' }}{% for tag in tags or [] %}{{ tag.name }}{% endfor %}{% endif %}"
)
OPEN = PromptOptions(continues=True)


def builder_of(hf: HFTokenizer, template: str) -> tuple[PromptBuilder, Tokenizer]:
    tokenizer = Tokenizer(config_of(hf, template=template, eos="<|im_end|>"))
    return PromptBuilder.from_config(tokenizer), tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_begun_answer_equals_transformers(byte_level_hf: HFTokenizer, name: str) -> None:
    config = config_of(byte_level_hf, template=TEMPLATES[name])
    builder = PromptBuilder.from_config(Tokenizer(config))
    reference = transformers_tokenizer(config, "<|begin_of_text|>", "<|eot_id|>")
    for seed in range(40):
        messages = [*random_conversation(seed), Message("assistant", f"So it is {seed}")]
        options: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
        expected = reference.apply_chat_template(dicts(messages), tokenize=False, **options)
        assert builder.render(messages, OPEN) == expected, seed
        ids = reference.apply_chat_template(dicts(messages), **options)["input_ids"]
        assert builder.build(messages, OPEN) == ids, seed


@pytest.mark.parametrize("name", TEMPLATES)
@given(text=hostile_texts())
@examples(100)
def test_a_begun_answer_forges_no_turn(byte_level_hf: HFTokenizer, name: str, text: str) -> None:
    tokenizer = Tokenizer(config_of(byte_level_hf, template=TEMPLATES[name]))
    builder = PromptBuilder.from_config(tokenizer)
    benign, hostile = (
        [i for i in builder.build(chat("q", t), OPEN) if i in tokenizer.special_ids]
        for t in ("a", text)
    )
    assert hostile == benign


@pytest.mark.parametrize("name", ["chatml", "llama3"])
def test_without_a_question_the_prompt_ends_behind_the_last_message(
    byte_level_hf: HFTokenizer, name: str
) -> None:
    tokenizer = Tokenizer(config_of(byte_level_hf, template=TEMPLATES[name]))
    for option in (None, name):  # the checkpoint's own template, and ours
        builder = PromptBuilder.from_config(tokenizer, option)
        text = builder.render(chat("hi"), PromptOptions(add_generation_prompt=False))
        assert "assistant" in builder.render(chat("hi")) and "assistant" not in text
        assert builder.render(chat("hi")).startswith(text)


def test_a_templates_own_variables(byte_level_hf: HFTokenizer) -> None:
    builder, _ = builder_of(byte_level_hf, THINKING)
    assert builder.render(chat("hi")).endswith("assistant\n")
    off = PromptOptions({"enable_thinking": False, "not_known": False})
    assert builder.render(chat("hi"), off).endswith("assistant\n<think></think>")


@pytest.mark.parametrize("where", ["note", "tags"])
@given(text=hostile_texts())
@examples(100)
def test_no_variable_changes_the_turns(byte_level_hf: HFTokenizer, where: str, text: str) -> None:
    builder, tokenizer = builder_of(byte_level_hf, THINKING)

    def control_ids(value: str) -> list[int]:
        variables = {"note": value} if where == "note" else {"tags": [{"name": value}]}
        ids = builder.build(chat("hi"), PromptOptions(variables))
        return [i for i in ids if i in tokenizer.special_ids]

    assert control_ids(text) == control_ids("a")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"messages": []}, "'messages'"),
        ({"tools": []}, "'tools'"),
        ({"add_generation_prompt": True}, "'add_generation_prompt'"),
        ({"bos_token": "x"}, "'bos_token'"),
        ({"<|im_end|>": 1}, "<|im_end|>"),
        ({"tags": [{"b c": 1}]}, "'b c'"),
        ({"not_known": 1}, "'not_known'"),
        ({"": 1}, "''"),
    ],
)
def test_variables_that_are_not_the_templates_own(
    byte_level_hf: HFTokenizer, variables: dict[str, Any], said: str
) -> None:
    builder, _ = builder_of(byte_level_hf, THINKING)
    with pytest.raises(InvalidRequest) as caught:
        builder.build(chat("hi"), PromptOptions(variables))
    assert said in caught.value.message
    assert caught.value.param == "chat_template_kwargs"


def test_a_template_that_loses_the_end_of_a_message(byte_level_hf: HFTokenizer) -> None:
    builder, _ = builder_of(
        byte_level_hf,
        "{% for message in messages %}{{ message.role + message.content[:9] }}{% endfor %}",
    )
    assert builder.render(chat("q", "a"), OPEN) == "userqassistanta"
    with pytest.raises(InvalidRequest) as caught:
        builder.build(chat("q", "a longer beginning"), OPEN)
    assert caught.value.param == "continue_final_message"


def test_llama2_goes_on_in_its_answer(llama2: Tokenizer) -> None:
    builder = PromptBuilder.from_config(llama2, "llama2")
    messages = chat("q", "a", "And?", "The rest ")
    whole = builder.render([*messages, Message("user", "x")])
    text = builder.render(messages, OPEN)
    assert text == "<s>[INST] q [/INST] a </s><s>[INST] And? [/INST] The rest "
    assert whole.startswith(text.rstrip())
    assert builder.render(chat("q", ""), OPEN) == "<s>[INST] q [/INST]"
    assert builder.build(chat("q"), OPEN) == builder.build(chat("q"))
