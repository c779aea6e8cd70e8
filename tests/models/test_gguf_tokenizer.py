"""Tokenizers out of GGUF metadata give the ids of the tokenizers they were made from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from weights_builders import CONFIG, KINDS, PIECES, SCORES, random_tensors, write_gguf

from llamastream.config import TokenizerConfig
from llamastream.errors import ModelError
from llamastream.models import open_checkpoint
from llamastream.text import Tokenizer as Text

TEXTS = [
    "Hello world",
    "It's 12345 o'clock, isn't it?",
    "  two  spaces\n\n\nand\tlines \n",
    "naïve café — “quotes” 你好 😀🇫🇷",
    "def f(x):\n    return x ** 2  # 3.14",
    "",
]


def tokenizer_of(tmp_path: Path, **metadata: Any) -> TokenizerConfig:
    """metadata: keys after tokenizer.ggml., or whole keys with their dots."""
    keys = {key if "." in key else f"tokenizer.ggml.{key}": metadata[key] for key in metadata}
    vocab_size = max(CONFIG["vocab_size"], len(metadata.get("tokens") or ()))
    config = {**CONFIG, "vocab_size": vocab_size}
    file = tmp_path / "t.gguf"
    write_gguf(file, config=config, tensors=random_tensors(config), metadata=keys)
    return open_checkpoint(str(file), cache_dir=tmp_path / "cache").tokenizer


def error_of(tmp_path: Path, **metadata: Any) -> str:
    with pytest.raises(ModelError) as caught:
        tokenizer_of(tmp_path, **metadata)
    return caught.value.message


def byte_level(split: list[Any], texts: list[str]) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer trained on `texts` with the given way of cutting, and its GGUF metadata."""
    from tokenizers import trainers

    tokenizer = Tokenizer(models.BPE())
    end = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, end])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    metadata = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": [3 if i < 3 else 1 for i in range(len(tokens))],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "scores": None,
    }
    return tokenizer, metadata


def test_stories_gguf_has_the_folders_tokenizer(shared: Callable[[str], Path], cache: Path) -> None:
    folder = open_checkpoint(str(shared("stories260K")), cache_dir=cache).tokenizer
    file = open_checkpoint(str(shared("stories260K/stories260K-f32.gguf")), cache_dir=cache)
    theirs, ours = json.loads(folder.tokenizer_json), json.loads(file.tokenizer.tokenizer_json)
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "decoder"):
        assert ours[part] == theirs[part], part
    for part in ("vocab", "merges", "byte_fallback", "fuse_unk", "unk_token"):
        assert ours["model"][part] == theirs["model"][part], part
    assert file.tokenizer.bos_token_id == folder.bos_token_id == 1
    assert file.tokenizer.eos_token_ids == folder.eos_token_ids == (2,)
    assert file.tokenizer.add_bos_token is folder.add_bos_token is True


def test_published_llama2_encodings_through_gguf(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    """The pieces and scores of the published sentencepiece model, as a GGUF file holds them."""
    published = sentencepiece_model_pb2.ModelProto.FromString(
        shared("llama2-tokenizer/tokenizer.model").read_bytes()
    )
    config = tokenizer_of(
        tmp_path,
        tokens=[piece.piece for piece in published.pieces],
        token_type=[piece.type for piece in published.pieces],
        scores=[piece.score for piece in published.pieces],
    )
    tokenizer = Tokenizer.from_str(config.tokenizer_json)
    for case in json.loads(shared("llama2_tokenizer_encode.json").read_text())["cases"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=case["bos"]).ids
        assert ids == case["expected_token_ids"], case["name"]
        assert tokenizer.decode(ids) == case["text"]


def test_sentencepiece_bos_and_space_prefix_follow_the_metadata(tmp_path: Path) -> None:
    prefixed = Tokenizer.from_str(tokenizer_of(tmp_path).tokenizer_json)
    assert prefixed.encode("ab").tokens == ["<s>", "\u2581", "ab"]
    metadata = {"add_space_prefix": False, "add_bos_token": False}
    config = tokenizer_of(tmp_path, **metadata)
    plain = Tokenizer.from_str(config.tokenizer_json)
    assert plain.encode("ab").tokens == ["ab"]
    assert plain.decode(plain.encode(" ab").ids) == " ab"
    assert config.bos_token_id == 1 and not config.add_bos_token


def test_sentencepiece_byte_fallback(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_of(tmp_path, add_space_prefix=False).tokenizer_json)
    assert tokenizer.encode("\x02", add_special_tokens=False).tokens == ["<0x02>"]


def test_better_score_joins_first(tmp_path: Path) -> None:
    pieces = [*PIECES, "c", "bc"]
    kinds = [*KINDS, 1, 1]
    for bc, expected in ((1.0, ["a", "bc"]), (-1.0, ["ab", "c"])):
        config = tokenizer_of(
            tmp_path, tokens=pieces, token_type=kinds, scores=[*SCORES, -9.0, bc],
            add_space_prefix=False,
        )  # fmt: skip
        tokenizer = Tokenizer.from_str(config.tokenizer_json)
        assert tokenizer.encode("abc", add_special_tokens=False).tokens == expected


def test_control_and_user_defined_tokens_are_added_tokens(tmp_path: Path) -> None:
    config = tokenizer_of(
        tmp_path,
        tokens=[*PIECES, "<|sys|>", "##"],
        token_type=[*KINDS, 3, 4],
        scores=[*SCORES, 0.0, 0.0],
    )
    tokenizer = Tokenizer.from_str(config.tokenizer_json)
    added = tokenizer.get_added_tokens_decoder()
    assert {token.content: token.special for token in added.values()} == {
        "<unk>": True, "<s>": True, "</s>": True, "<|sys|>": True, "##": False,
    }  # fmt: skip
    ids = tokenizer.encode("a##<|sys|>", add_special_tokens=False).ids
    assert ids[-2:] == [len(PIECES) + 1, len(PIECES)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a##"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("gpt-2", [pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        (
            "smollm",
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ],
        ),
    ],
)
def test_byte_level_cuts_as_the_original(tmp_path: Path, name: str, split: list[Any]) -> None:
    """The original ends in ByteLevel's own regex, as the published tokenizer.json files do."""
    original, metadata = byte_level(split[:-1], TEXTS)
    original.pre_tokenizer = pre_tokenizers.Sequence(split)
    config = tokenizer_of(tmp_path, pre=name, **metadata)
    tokenizer = Tokenizer.from_str(config.tokenizer_json)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert ids == original.encode(text).ids
        assert tokenizer.decode(ids) == text
    assert not config.add_bos_token


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", ["It", "'s", " 12345", " ok", "...", " ", " Now", "!!", "\n"]),
        ("smollm", [*"It|'s| |1|2|3|4|5| ok|...| | Now|!!|\n".split("|")]),
        ("llama-bpe", ["It", "'s", " ", "123", "45", " ok", "...", " ", " Now", "!!\n"]),
        ("llama3", ["It", "'s", " ", "123", "45", " ok", "...", " ", " Now", "!!\n"]),
        ("qwen2", [*"It|'s| |1|2|3|4|5| ok|...| | Now|!!\n".split("|")]),
        ("deepseek-llm", [*"It|'|s| |12345| ok|...| | Now|!!|\n".split("|")]),
        ("default", ["It", "'", "s", " ", "123", "45", " ok", "...", " ", " Now", "!!", "\n"]),
    ],
)
def test_text_is_cut_into_these_pieces(tmp_path: Path, name: str, pieces: list[str]) -> None:
    _, metadata = byte_level([], TEXTS)
    config = tokenizer_of(tmp_path, pre=name, **metadata)
    tokenizer = Tokenizer.from_str(config.tokenizer_json)
    text = "It's 12345 ok...  Now!!\n"
    cut = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cut] == pieces


def test_llama3_takes_whole_words_of_the_vocabulary_and_a_bos(tmp_path: Path) -> None:
    """`ignore_merges`: a word that is a token is that token, though no merge leads to it."""
    _, metadata = byte_level([], TEXTS)
    tokens = [*metadata["tokens"], "Zyxw"]
    changed = {"tokens": tokens, "token_type": [*metadata["token_type"], 1]}
    config = tokenizer_of(tmp_path, pre="llama-bpe", **{**metadata, **changed})
    tokenizer = Tokenizer.from_str(config.tokenizer_json)
    assert config.add_bos_token
    assert tokenizer.encode("Zyxw").ids == [1, len(tokens) - 1]


def test_unknown_way_of_cutting_is_named(tmp_path: Path) -> None:
    _, metadata = byte_level([], TEXTS)
    message = error_of(tmp_path, pre="abacus", **metadata)
    assert "tokenizer.ggml.pre must be one of" in message and "Given: 'abacus'" in message


def test_end_tokens_are_the_named_and_the_known_ones(tmp_path: Path) -> None:
    _, metadata = byte_level([], TEXTS)
    config = tokenizer_of(tmp_path, pre="smollm", **metadata, eos_token_id=0, eot_token_id=5)
    assert Text(config).eos_token_ids == (0, 5, 2)  # 2 is <|im_end|>


def test_chat_template_is_read(tmp_path: Path) -> None:
    config = tokenizer_of(tmp_path, **{"tokenizer.chat_template": "{{ messages }}"})
    assert config.chat_template == "{{ messages }}"


@pytest.mark.parametrize(
    ("metadata", "part"),
    [
        ({"model": "bert"}, "tokenizer.ggml.model must be 'llama' or 'gpt2'. Given: 'bert'"),
        ({"model": None}, "tokenizer.ggml.model must be 'llama' or 'gpt2'"),
        ({"tokens": None}, "tokenizer.ggml.tokens must be a list of str. Given: nothing"),
        ({"scores": None}, "tokenizer.ggml.scores must be a list of float"),
        ({"scores": [1.0]}, "tokenizer.ggml.scores must be as long as the vocabulary, 11"),
        ({"token_type": [1]}, "tokenizer.ggml.token_type must be as long as the vocabulary"),
        ({"bos_token_id": 11}, "bos_token_id must be below the vocabulary's size, 11. Given: 11"),
        ({"model": "gpt2"}, "tokenizer.ggml.merges must be a list of str"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token must be true or false. Given: 1"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, metadata: dict[str, Any], part: str) -> None:
    message = error_of(tmp_path, **metadata)
    assert part in message
    assert "\n" not in message


def test_more_tokens_than_embedding_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.gguf"
    config = {**CONFIG, "vocab_size": 10}
    write_gguf(file, config=config, tensors=random_tensors(config))
    with pytest.raises(ModelError, match="at most 10 tokens long"):
        open_checkpoint(str(file), cache_dir=tmp_path)


@pytest.mark.demo
def test_demo_ids_are_those_of_transformers(demo_model: Path, demo_cache: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(demo_model.parent, gguf_file=demo_model.name)
    config = open_checkpoint(str(demo_model), cache_dir=demo_cache).tokenizer
    ours = Tokenizer.from_str(config.tokenizer_json)
    for text in [*TEXTS, "<|im_start|>user\nhi<|im_end|>\n"]:
        assert ours.encode(text).ids == theirs.encode(text)
        assert ours.decode(theirs.encode(text), skip_special_tokens=False) == text
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))
    assert not config.add_bos_token
    assert config.chat_template == theirs.chat_template
