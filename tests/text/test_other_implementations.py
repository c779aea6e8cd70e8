"""Where other implementations' Llama 2 prompts differ from ours; docs/prompts.md says why."""

from collections.abc import Callable
from typing import Any

import pytest
from chat_builders import messages_of

from llamastream.errors import InvalidRequest
from llamastream.text import PromptBuilder, Tokenizer

# Ids published for a tokenizer that puts no space before the text after <s> (legacy=False).
OTHER_IDS = {"hf_test_tokenization_for_chat_0", "hf_test_tokenization_for_chat_1"}
REFUSED = {
    "hf_test_tokenization_for_chat_1": r"messages\[2\]\.role must be user",  # ends on an answer
    "hf_template_error_system_only": "the last message is the one to answer",
    "llamacpp_fmt_sys_llama2": "the last message is the one to answer",
    "llamacpp_fmt_sys_llama2-sys": "the last message is the one to answer",
}
OTHER_TEXT = {
    "llamacpp_fusionnet_jinja",  # does not strip the assistant
    "llamacpp_vigogne_builtin(llama2-sys-strip)",  # no spaces and no BOS between turns
}
FORGED_IDS = {"hf_template_control_tokens_as_text"}  # control tokens parsed out of user text
ADDS_FIRST_BOS_LATER = ("fastchat_", "llamacpp_")  # their text leaves <s> to the tokenizer


@pytest.fixture(scope="module")
def builder(llama2: Tokenizer) -> PromptBuilder:
    return PromptBuilder.from_config(llama2, "llama2", allow_prompt_tags=True)


@pytest.fixture(scope="module")
def cases(shared_json: Callable[[str], Any]) -> list[Any]:
    found: list[Any] = shared_json("prompts_other_implementations.json")["cases"]
    assert len(found) == 33
    return found


def test_ids_agree_but_for_the_known_differences(builder: PromptBuilder, cases: list[Any]) -> None:
    for case in cases:
        expected = case.get("expected_token_ids") or case.get("ids_with_bos")
        if expected is None or case["name"] in REFUSED:
            continue
        agrees = builder.build(messages_of(case)) == expected
        assert agrees == (case["name"] not in OTHER_IDS | FORGED_IDS), case["name"]


def test_metas_ids_agree_where_a_case_gives_them(builder: PromptBuilder, cases: list[Any]) -> None:
    found = [case for case in cases if "ids_meta_and_fast" in case and case["name"] not in REFUSED]
    assert found
    for case in found:
        assert builder.build(messages_of(case)) == case["ids_meta_and_fast"], case["name"]


def test_texts_agree_but_for_the_known_differences(
    builder: PromptBuilder, cases: list[Any]
) -> None:
    for case in cases:
        if "expected_text" not in case or case["name"] in REFUSED:
            continue
        text = builder.render(messages_of(case))
        if case["name"].startswith(ADDS_FIRST_BOS_LATER):
            text = text.removeprefix("<s>")
        assert (text == case["expected_text"]) == (case["name"] not in OTHER_TEXT), case["name"]


def test_what_others_refuse_and_what_only_we_refuse(
    builder: PromptBuilder, cases: list[Any]
) -> None:
    for case in cases:
        if "expected_error" in case or case["name"] in REFUSED:
            with pytest.raises(InvalidRequest, match=REFUSED.get(case["name"])):
                builder.build(messages_of(case))
