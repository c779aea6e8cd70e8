"""Llama 3 and ChatML prompts: turns between control tokens."""

from collections.abc import Callable
from typing import Any

import pytest
from chat_builders import chat, config_of, examples, hostile_texts, messages_of
from hypothesis import given
from tokenizers import Tokenizer as HFTokenizer

from llamastream.errors import ModelError
from llamastream.text import PromptBuilder, Tokenizer


def test_llama3_prompts_are_metas_to_the_token(
    llama3: Tokenizer, shared_json: Callable[[str], Any]
) -> None:
    text, message, dialog = shared_json("llama3_prompts.json")["cases"]
    end = llama3.eos_token_ids[0]
    assert [*llama3.encode(text["text"]), end] == text["expected_token_ids"]
    builder = PromptBuilder.from_config(llama3, "llama3")
    one = message["expected_token_ids"]
    assert builder.build(messages_of(message))[1 : 1 + len(one)] == one
    assert builder.build(messages_of(dialog)) == dialog["expected_token_ids"]


def test_llama3_strips_contents_and_writes_bos_once(byte_level: Tokenizer) -> None:
    builder = PromptBuilder.from_config(byte_level, "llama3")
    text = builder.render(chat("  a \n", "b", "c", system=" s "))
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nc<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert byte_level.encode_raw_prompt(text) == builder.build(
        chat("  a \n", "b", "c", system=" s ")
    )


def test_chatml_writes_contents_as_they_are(byte_level: Tokenizer) -> None:
    builder = PromptBuilder.from_config(byte_level, "chatml")
    text = builder.render(chat(" a ", "b", "c"))
    assert text == (
        "<|im_start|>user\n a <|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )
    assert byte_level.encode_raw_prompt(text) == builder.build(chat(" a ", "b", "c"))


def test_a_model_that_wants_bos_gets_it_before_chatml(byte_level_hf: HFTokenizer) -> None:
    tokenizer = Tokenizer(config_of(byte_level_hf, add_bos=True))
    ids = PromptBuilder.from_config(tokenizer, "chatml").build(chat("a"))
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("name", ["llama3", "chatml"])
@given(text=hostile_texts())
@examples(500)
def test_no_content_changes_the_turns(byte_level: Tokenizer, name: str, text: str) -> None:
    builder = PromptBuilder.from_config(byte_level, name)
    benign, hostile = (
        [i for i in builder.build(chat(*[t] * 3, system=t)) if i in byte_level.special_ids]
        for t in ("a", text)
    )
    assert hostile == benign


@pytest.mark.parametrize("name", ["llama3", "chatml"])
def test_a_tokenizer_without_the_control_tokens_is_refused(llama2: Tokenizer, name: str) -> None:
    with pytest.raises(ModelError, match=f"--chat-template {name} needs"):
        PromptBuilder.from_config(llama2, name)
