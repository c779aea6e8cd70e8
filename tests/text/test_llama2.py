"""Llama 2 prompts are Meta's to the token; tags and roles that could forge a turn are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from chat_builders import TAGS, chat, examples, hostile_texts, messages_of
from hypothesis import given

from llamastream.config import TokenizerConfig
from llamastream.errors import InvalidRequest, ModelError
from llamastream.text import PromptBuilder, Tokenizer
from llamastream.types import Message

HF_TEMPLATE = """{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}
{%- set system = messages[0]['content'] %}{% else %}{% set turns = messages %}
{%- set system = false %}{% endif %}{% for message in turns %}
{%- if loop.index0 == 0 and system != false %}
{%- set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}
{%- else %}{% set content = message['content'] %}{% endif %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}
{%- endif %}{% endfor %}"""


@pytest.fixture(scope="module")
def builder(llama2: Tokenizer) -> PromptBuilder:
    return PromptBuilder.from_config(llama2, "llama2")


@pytest.fixture(scope="module")
def permissive(llama2: Tokenizer) -> PromptBuilder:
    return PromptBuilder.from_config(llama2, "llama2", allow_prompt_tags=True)


@pytest.fixture(scope="module")
def cases(shared_json: Callable[[str], Any]) -> list[Any]:
    found: list[Any] = shared_json("llama2_prompts_meta_reference.json")["cases"]
    assert len(found) == 35
    return found


def test_prompts_are_metas_to_the_token(permissive: PromptBuilder, cases: list[Any]) -> None:
    for case in cases:
        if "expected_token_ids" in case:
            assert permissive.build(messages_of(case)) == case["expected_token_ids"], case["name"]


def test_texts_are_metas(permissive: PromptBuilder, cases: list[Any]) -> None:
    for case in cases:
        if "expected_text_rendered" in case:
            rendered = permissive.render(messages_of(case))
            assert rendered == case["expected_text_rendered"], case["name"]


def test_contents_with_tags_are_refused_and_others_are_not(
    builder: PromptBuilder, cases: list[Any]
) -> None:
    for case in cases:
        if case.get("unsafe"):
            with pytest.raises(InvalidRequest, match="--allow-prompt-tags"):
                builder.build(messages_of(case))
        elif "expected_token_ids" in case:
            assert builder.build(messages_of(case)) == case["expected_token_ids"], case["name"]


def test_role_errors_of_the_reference_are_refused(
    permissive: PromptBuilder, cases: list[Any]
) -> None:
    for case in cases:
        if "expected_error" in case:
            with pytest.raises(InvalidRequest):
                permissive.build(messages_of(case))


@pytest.mark.parametrize("tag", TAGS)
def test_a_refused_tag_is_named_with_its_message(builder: PromptBuilder, tag: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        builder.build(chat("a", f"b{tag}c", "d", system="s"))
    assert f"messages[2].content must not hold {tag}," in refusal.value.message
    assert refusal.value.param == "messages[2].content"


def test_a_tag_in_the_system_prompt_is_refused(builder: PromptBuilder) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[0\]"):
        builder.render(chat("a", system="<</SYS>> [/INST]"))


def test_a_wrong_role_is_named_with_its_message(builder: PromptBuilder) -> None:
    messages = [Message("user", "a"), Message("user", "b")]
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\.role must be assistant") as refusal:
        builder.build(messages)
    assert refusal.value.param == "messages[1].role"


def test_an_empty_conversation_is_refused(builder: PromptBuilder) -> None:
    with pytest.raises(InvalidRequest, match="at least 1 message"):
        builder.build([])


def test_a_lone_surrogate_is_named_with_its_message(builder: PromptBuilder) -> None:
    with pytest.raises(InvalidRequest, match=r"messages\[2\]\.content .* character 1 ") as refusal:
        builder.build(chat("a", "b", "c\ud83d"))
    assert refusal.value.param == "messages[2].content"


@given(text=hostile_texts())
@examples(500)
def test_no_content_yields_a_control_token(
    llama2: Tokenizer, permissive: PromptBuilder, text: str
) -> None:
    ids = permissive.build(chat(text, text, text, system=text))
    assert [i for i in ids if i in llama2.special_ids] == [1, 2, 1]
    content = f"[INST] {text.strip()} [/INST]"
    last = len(ids) - 1 - ids[::-1].index(1)
    assert llama2.decode(ids[last:]) == content


def test_a_checkpoints_own_llama2_template_gets_the_references_checks(
    llama2_config: TokenizerConfig,
) -> None:
    builder = _builder(llama2_config, HF_TEMPLATE)
    with pytest.raises(InvalidRequest, match="--allow-prompt-tags"):
        builder.build(chat("[INST]"))
    with pytest.raises(InvalidRequest, match="the last message is the one to answer"):
        builder.build(chat("a", "b"))


def test_a_template_that_only_resembles_llama2_is_used_as_it_is(
    llama2_config: TokenizerConfig,
) -> None:
    own = HF_TEMPLATE.replace("' ' + content.strip() + ' '", "content")
    assert own != HF_TEMPLATE
    builder = _builder(llama2_config, own)
    assert builder.render(chat("a", " b ", "c")).count("[/INST] b </s>") == 1
    with pytest.raises(InvalidRequest, match="--allow-prompt-tags"):
        builder.build(chat("[/INST]"))


def test_a_tokenizer_without_bos_cannot_have_llama2_prompts(
    llama2_config: TokenizerConfig,
) -> None:
    config = TokenizerConfig(llama2_config.tokenizer_json, None, (2,), False)
    with pytest.raises(ModelError, match="BOS"):
        PromptBuilder.from_config(Tokenizer(config), "llama2")


def _builder(config: TokenizerConfig, template: str) -> PromptBuilder:
    own = TokenizerConfig(config.tokenizer_json, 1, (2,), True, chat_template=template)
    return PromptBuilder.from_config(Tokenizer(own))
