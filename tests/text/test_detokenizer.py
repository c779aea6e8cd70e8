"""Ids to text, token by token: joined deltas are the decoded text, and only whole characters."""

import codecs
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from chat_builders import examples, stream
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models

from llamastream.config import TokenizerConfig
from llamastream.errors import ModelError
from llamastream.text import IncrementalDetokenizer, Tokenizer
from llamastream.text.pieces import piece_rules

LLAMA2_IDS = st.one_of(
    st.integers(0, 32_005), st.integers(3, 258), st.sampled_from([0, 1, 2, 29871])
)
BYTE_LEVEL_IDS = st.integers(0, 430)
# Where two references disagree, or both lose text: what is right, and why (docs/prompts.md).
RIGHT_TEXT = {"bytes/unk_mid": "Hello world"}  # <unk> is a control token: skipped, not shown as ⁇
# Both references hold back U+FFFD until more comes; it is text as soon as it cannot be otherwise.
SHOWN_AT_ONCE = {
    "text/replacement_char": ["a", "\ufffd", "b"],
    "bytes/invalid_ff_fe": ["\ufffd", "\ufffd"],
    "bytes/lone_continuation": ["Hello", "\ufffd", " World"],
    "bytes/bad_continuation": ["", "\ufffd("],
    "bytes/byte_space": [" "],  # a byte is no mark of a word: SentencePiece keeps it
}


def test_published_sequences_stream_as_published(
    llama2: Tokenizer, shared_json: Callable[[str], Any]
) -> None:
    for case in shared_json("streaming_detokenization.json")["cases"]:
        deltas, flush = stream(llama2, case["token_ids"])
        name = case["name"]
        published = [delta or "" for delta in case["hf_decodestream_chunks"]]
        assert deltas == SHOWN_AT_ONCE.get(name, published), name
        text = RIGHT_TEXT.get(name, case["final_sentencepiece_decode"])
        assert "".join(deltas) + flush == text, name
        assert llama2.decode(case["token_ids"]) == text, name


def test_published_decodes_hold(llama2: Tokenizer, shared_json: Callable[[str], Any]) -> None:
    facts = shared_json("streaming_detokenization.json")["facts"]
    cases = [fact for fact in facts if "token_ids" in fact]
    assert len(cases) == 3
    for fact in cases:
        assert "".join(stream(llama2, fact["token_ids"])[0]) == fact["expected"], fact["name"]


def test_byte_pieces_decode_as_published(shared_json: Callable[[str], Any]) -> None:
    facts = shared_json("streaming_detokenization.json")["facts"]
    cases = [fact for fact in facts if "pieces" in fact]
    assert len(cases) == 7
    for fact in cases:
        vocab = {piece: n for n, piece in enumerate(dict.fromkeys(fact["pieces"]))}
        tokenizer = _vocabulary_tokenizer(vocab, decoders.ByteFallback())
        deltas, flush = stream(tokenizer, [vocab[piece] for piece in fact["pieces"]])
        # The library shows one U+FFFD per byte; an incomplete character is one (bytes.decode).
        expected = fact["expected"].replace("\ufffd\ufffd", "\ufffd")
        assert "".join(deltas) + flush == expected, fact["name"]


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("tokenizers/decode_stream_bytefallback", decoders.ByteFallback()),
        ("tokenizers/decode_stream_metaspace", decoders.Metaspace()),
    ],
)
def test_small_vocabularies_stream_as_published(
    shared_json: Callable[[str], Any], name: str, decoder: Any
) -> None:
    facts = shared_json("streaming_detokenization.json")["facts"]
    fact = next(fact for fact in facts if fact["name"] == name)
    vocab = {piece: n for n, piece in enumerate(fact["vocab"])}
    tokenizer = _vocabulary_tokenizer(vocab, decoder)
    deltas, flush = stream(tokenizer, [token_id for token_id, _ in fact["steps"]])
    assert deltas == [text or "" for _, text in fact["steps"]]
    assert flush == ""


def test_bytes_are_held_and_shown_as_published(shared_json: Callable[[str], Any]) -> None:
    facts = {fact["name"]: fact for fact in shared_json("streaming_detokenization.json")["facts"]}
    tokenizer = _vocabulary_tokenizer(
        {f"<0x{byte:02X}>": byte for byte in range(256)}, decoders.ByteFallback()
    )
    for name in ("ollama/utf8_buffer", "ollama/utf8_buffer_valid"):
        detokenizer = IncrementalDetokenizer(tokenizer)
        for step in facts[name]["steps"]:
            assert "".join(map(detokenizer.add, step["write"])) == step["flush"], name
    for ids, text, state in facts["llama.cpp/utf8_any"]["cases"]:
        deltas, flush = stream(tokenizer, ids)
        shown = "".join(deltas)
        if state == "fail":  # where they give up, the rest goes on after U+FFFD
            assert shown.startswith(text + "\ufffd")
        else:
            assert (shown, flush) == (text, "\ufffd" if state == "need_more" else "")


@pytest.mark.parametrize(
    "name", ["tokenizers/decode_stream_llama3_korean", "tokenizers/decode_stream_llama3_letters"]
)
def test_llama3_streams_as_published(
    llama3: Tokenizer, shared_json: Callable[[str], Any], name: str
) -> None:
    facts = shared_json("streaming_detokenization.json")["facts"]
    fact = next(fact for fact in facts if fact["name"] == name)
    deltas, _ = stream(llama3, [token_id for token_id, _ in fact["steps"]])
    assert deltas == [text or "" for _, text in fact["steps"]]


@given(ids=st.lists(LLAMA2_IDS, max_size=30), skip=st.booleans())
@examples(1000)
def test_joined_deltas_are_the_decoded_text(llama2: Tokenizer, ids: list[int], skip: bool) -> None:
    deltas, flush = stream(llama2, ids, skip=skip)
    assert "".join(deltas) + flush == llama2.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(BYTE_LEVEL_IDS, max_size=30), skip=st.booleans())
@examples(1000)
def test_joined_deltas_are_the_decoded_text_at_byte_level(
    byte_level: Tokenizer, ids: list[int], skip: bool
) -> None:
    deltas, flush = stream(byte_level, ids, skip=skip)
    assert "".join(deltas) + flush == byte_level.decode(ids, skip_special_tokens=skip)


@pytest.mark.slow
@given(ids=st.lists(LLAMA2_IDS, max_size=60), skip=st.booleans())
@examples(10_000)
def test_joined_deltas_are_the_decoded_text_at_length(
    llama2: Tokenizer, ids: list[int], skip: bool
) -> None:
    deltas, flush = stream(llama2, ids, skip=skip)
    assert "".join(deltas) + flush == llama2.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(BYTE_LEVEL_IDS, min_size=1, max_size=20))
@examples(500)
def test_no_more_than_an_unfinished_character_is_held_back(
    byte_level: Tokenizer, ids: list[int]
) -> None:
    deltas, _ = stream(byte_level, ids)
    for count in range(1, len(ids) + 1):
        raw = b"".join(byte_level.visible_bytes(token_id, True) for token_id in ids[:count])
        whole = codecs.getincrementaldecoder("utf-8")("replace").decode(raw)
        assert "".join(deltas[:count]) == whole


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@examples(500)
def test_decoding_undoes_encoding(llama2: Tokenizer, text: str) -> None:
    assert llama2.decode(llama2.encode(text)) == text.replace("\u2581", " ")


@given(ids=st.lists(BYTE_LEVEL_IDS, max_size=20), skip=st.booleans())
@examples(500)
def test_byte_level_decode_is_the_librarys(
    byte_level: Tokenizer, byte_level_hf: HFTokenizer, ids: list[int], skip: bool
) -> None:
    expected = byte_level_hf.decode(ids, skip_special_tokens=skip)
    assert byte_level.decode(ids, skip_special_tokens=skip) == expected


@given(ids=st.lists(st.integers(259, 31_999), max_size=20), skip=st.booleans())
@examples(500)
def test_sentencepiece_decode_is_the_librarys_where_no_bytes_are(
    llama2: Tokenizer, llama2_config: TokenizerConfig, ids: list[int], skip: bool
) -> None:
    expected = _library(llama2_config).decode(ids, skip_special_tokens=skip)
    assert llama2.decode(ids, skip_special_tokens=skip) == expected


def test_incomplete_character_at_the_end_is_flushed_once(llama2: Tokenizer) -> None:
    assert stream(llama2, [15043, 243, 162, 156]) == (["Hello", "", "", ""], "\ufffd")


def test_control_tokens_are_shown_on_demand(llama2: Tokenizer) -> None:
    assert stream(llama2, [1, 15043, 2], skip=False) == (["<s>", " Hello", "</s>"], "")
    assert stream(llama2, [1, 15043, 2], skip=True) == (["", "Hello", ""], "")


def test_ids_past_the_vocabulary_are_silent(llama2: Tokenizer) -> None:
    assert stream(llama2, [15043, 32_000, 2**31, 3186]) == (["Hello", "", "", " world"], "")


def test_other_steps_of_a_decoder_are_refused() -> None:
    steps = {"type": "Sequence", "decoders": [{"type": "Strip", "content": "_", "start": 1}]}
    with pytest.raises(ModelError, match="Strip"):
        piece_rules(json.dumps(steps))


def test_a_token_costs_the_same_however_long_the_text(llama2: Tokenizer) -> None:
    """In calls, and in what is kept."""
    ids = llama2.encode("Streaming text costs the same: ça va, 世界 and 🙂 too.\n" * 1000)
    piece, num_pieces = len(ids) // 1000 * 10, 100
    detokenizer = IncrementalDetokenizer(llama2)
    counts = []
    tracemalloc.start()
    try:
        for number in range(num_pieces):
            if number == 1:  # the first one fills what is kept of the vocabulary
                begun, _ = tracemalloc.get_traced_memory()
            counts.append(_num_calls(detokenizer, ids[number * piece :][:piece]))
        ended, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(counts[1:]) <= counts[0] < 8 * piece
    assert ended - begun < 100 * num_pieces  # bytes: the counts themselves


def _num_calls(detokenizer: IncrementalDetokenizer, ids: list[int]) -> int:
    """Of functions, Python's and C's, while these ids are added."""
    count = 0

    def on_event(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        for token_id in ids:
            detokenizer.add(token_id)
    finally:
        sys.setprofile(None)
    return count


def _vocabulary_tokenizer(vocab: dict[str, int], decoder: Any) -> Tokenizer:
    hf = HFTokenizer(models.BPE(vocab, [], byte_fallback=True))
    hf.decoder = decoder
    return Tokenizer(TokenizerConfig(hf.to_str(), None, (), False))


def _library(config: TokenizerConfig) -> HFTokenizer:
    if not hasattr(_library, "loaded"):
        _library.loaded = HFTokenizer.from_str(config.tokenizer_json)  # type: ignore[attr-defined]
    loaded: HFTokenizer = _library.loaded  # type: ignore[attr-defined]
    return loaded
