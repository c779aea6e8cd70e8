"""Text to ids: plain text never yields a control token, and BOS stands once in front."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from chat_builders import CONTROL_TEXTS, config_of, examples, hostile_texts
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles.tokenizer import byte_tokenizer_config
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as HFTokenizer

from llamastream.config import TokenizerConfig
from llamastream.errors import InvalidRequest, ModelError
from llamastream.text import Tokenizer
from llamastream.text.tokenizer import MAX_KNOWN_LENGTH, TOOL_TAGS


def test_published_texts_encode_as_published(
    llama2: Tokenizer, shared_json: Callable[[str], Any]
) -> None:
    cases = shared_json("llama2_tokenizer_encode.json")["cases"]
    got = {case["name"]: llama2.encode(case["text"], add_bos=case["bos"]) for case in cases}
    assert got == {case["name"]: case["expected_token_ids"] for case in cases}


@given(text=hostile_texts())
@examples(1000)
def test_plain_text_yields_no_control_token_and_decodes_to_itself(
    byte_level: Tokenizer, text: str
) -> None:
    ids = byte_level.encode(text)
    assert byte_level.special_ids.isdisjoint(ids)
    assert byte_level.decode(ids) == text


@given(text=hostile_texts())
@examples(500)
def test_plain_text_encodes_as_sentencepiece_encodes_it(llama2: Tokenizer, text: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    reference = _sentencepiece(sentencepiece)
    assert llama2.encode(text, add_bos=False) == reference.encode(text)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@examples(500)
def test_text_without_control_tokens_encodes_as_the_library_encodes_it(
    byte_level: Tokenizer, byte_level_hf: HFTokenizer, text: str
) -> None:
    assert byte_level.encode_raw_prompt(text) == byte_level_hf.encode(text).ids


@given(parts=st.lists(st.sampled_from([*CONTROL_TEXTS, " ", "\n", "user", "<think>", "a b"])))
@examples(500)
def test_prompt_text_encodes_as_the_library_encodes_it(
    byte_level: Tokenizer, byte_level_hf: HFTokenizer, parts: list[str]
) -> None:
    text = "".join(parts)
    assert byte_level.encode_raw_prompt(text) == byte_level_hf.encode(text).ids


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}])
def test_control_tokens_take_white_space_as_the_library_takes_it(
    byte_level_hf: HFTokenizer, flags: dict[str, bool]
) -> None:
    hf = HFTokenizer.from_str(byte_level_hf.to_str())
    hf.add_special_tokens([AddedToken("<x>", normalized=False, **flags)])
    tokenizer = Tokenizer(config_of(hf))
    for text in ("a <x> b", "<x>", " <x>\n\n<x> ", "a<x>b", "é<x> <x>1", "<x><x>", "  <x>  "):
        assert tokenizer.encode_raw_prompt(text) == hf.encode(text).ids, text


@pytest.mark.parametrize("prompt", ["Hello", "<s>Hello"])
def test_raw_prompt_gets_one_bos(llama2: Tokenizer, prompt: str) -> None:
    assert llama2.encode_raw_prompt(prompt) == [1, 15043]


def test_raw_prompt_of_two_turns_keeps_its_control_tokens(llama2: Tokenizer) -> None:
    ids = llama2.encode_raw_prompt("<s>[INST] a [/INST] b </s><s>[INST] c [/INST]")
    assert [i for i in ids if i in llama2.special_ids] == [1, 2, 1]


@pytest.mark.parametrize(("prompt", "expected"), [("Hello", [15043]), ("<s>Hello", [1, 15043])])
def test_model_without_bos_gets_only_the_one_in_the_prompt(
    llama2_config: TokenizerConfig, prompt: str, expected: list[int]
) -> None:
    config = TokenizerConfig(llama2_config.tokenizer_json, 1, (2,), add_bos_token=False)
    assert Tokenizer(config).encode_raw_prompt(prompt) == expected


def test_space_goes_before_the_first_text_only_where_the_file_says_so(
    llama2_config: TokenizerConfig,
) -> None:
    data = json.loads(llama2_config.tokenizer_json)
    data["normalizer"] = None
    data["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
    data["pre_tokenizer"]["split"] = False
    text = json.dumps(data)
    tokenizer = Tokenizer(TokenizerConfig(text, 1, (2,), True))
    hf = HFTokenizer.from_str(text)
    for prompt in ("Hello", "Hello</s>Hello", "</s>Hello</s> Hello", "<s>[INST] a [/INST]"):
        expected = hf.encode(prompt, add_special_tokens=False).ids
        assert tokenizer.encode_segments(tokenizer.split_special(prompt)) == expected


def test_unflagged_tokens_in_the_shape_of_control_tokens_stay_text(
    byte_level_hf: HFTokenizer,
) -> None:
    hf = HFTokenizer.from_str(byte_level_hf.to_str())
    hf.add_tokens([AddedToken("<|turn|>", special=False)])
    tokenizer = Tokenizer(config_of(hf))
    turn = hf.token_to_id("<|turn|>")
    assert turn not in tokenizer.encode("a<|turn|>b")
    assert turn in tokenizer.encode_raw_prompt("a<|turn|>b")
    assert tokenizer.decode([turn]) == "<|turn|>"  # and a model that writes it is heard


def test_the_tags_of_calls_and_results_cannot_be_typed_though_no_file_flags_them() -> None:
    tokenizer = Tokenizer(byte_tokenizer_config(words=TOOL_TAGS))
    text = "".join(TOOL_TAGS)
    assert tokenizer.encode(text) == list(text.encode())
    ids = [tokenizer.token_id(tag) for tag in TOOL_TAGS]
    assert tokenizer.split_special(text) == ids
    assert tokenizer.decode([i for i in ids if i is not None]) == text


def test_control_token_among_the_ordinary_ones_is_taken_apart() -> None:
    vocab = {"<": 0, "/": 1, "s": 2, ">": 3, "</": 4, "s>": 5, "</s>": 6}
    hf = HFTokenizer(models.BPE(vocab, [("<", "/"), ("s", ">"), ("</", "s>")]))
    hf.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(TokenizerConfig(hf.to_str(), None, (6,), False))
    assert hf.encode("s</s>").ids == [2, 6]
    assert tokenizer.encode("s</s></s>") == [2, 4, 5, 4, 5]
    assert tokenizer.encode_raw_prompt("s</s>") == [2, 6]
    # All at once: one by one, each would read the rest again.
    assert tokenizer.encode("s" + "</s>" * 3000) == [2, *[4, 5] * 3000]


def test_lone_surrogate_is_refused(llama2: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        llama2.encode("a\ud800")


def test_unknown_decoder_is_refused(llama2_config: TokenizerConfig) -> None:
    data = json.loads(llama2_config.tokenizer_json)
    data["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(ModelError, match="decoder must be ByteLevel"):
        Tokenizer(TokenizerConfig(json.dumps(data), 1, (2,), True))


def test_missing_decoder_is_refused(llama2_config: TokenizerConfig) -> None:
    data = json.loads(llama2_config.tokenizer_json) | {"decoder": None}
    with pytest.raises(ModelError, match="must not be null"):
        Tokenizer(TokenizerConfig(json.dumps(data), 1, (2,), True))


def test_unreadable_file_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^tokenizer\.json is damaged or not what it should be"):
        Tokenizer(TokenizerConfig("{}", None, (), False))


@pytest.mark.parametrize("text", ["known text", "long " * MAX_KNOWN_LENGTH])
def test_a_text_that_comes_again_has_the_same_ids(byte_level: Tokenizer, text: str) -> None:
    expected = byte_level.encode(text)
    for _ in range(2):
        ids = byte_level.encode_segments([text])
        assert ids == expected
        ids.clear()  # what is remembered is not the caller's list


def test_token_bytes_are_what_a_token_stands_for(llama2: Tokenizer) -> None:
    assert llama2.token_bytes(15043) == b" Hello"
    assert llama2.token_bytes(243) == b"\xf0"
    assert llama2.token_text(243) == "\ufffd"
    assert llama2.token_text(2) == "</s>"
    assert llama2.token_bytes(99_999) == b""


def test_control_tokens_are_known(llama2: Tokenizer) -> None:
    assert llama2.special_ids == {0, 1, 2}
    assert (llama2.bos_token_id, llama2.eos_token_ids) == (1, (2,))


def _sentencepiece(module: Any) -> Any:
    if not hasattr(_sentencepiece, "loaded"):
        from chat_builders import SHARED

        file = SHARED / "llama2-tokenizer" / "tokenizer.model"
        _sentencepiece.loaded = module.SentencePieceProcessor(model_file=str(file))
    return _sentencepiece.loaded
