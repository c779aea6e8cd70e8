"""Which file of a folder decides what about its tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from weights_builders import CONFIG, TOKENIZER, write_folder

from llamastream.config import TokenizerConfig
from llamastream.errors import ModelError
from llamastream.models import open_checkpoint

BOS_FIRST = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
}


def tokenizer_of(tmp_path: Path, **files: Any) -> TokenizerConfig:
    """The tokenizer of a folder with `files`, named without their suffix .json."""
    contents = {f"{name}.json": content for name, content in files.items()}
    write_folder(tmp_path / "m", files=contents)
    return open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path).tokenizer


def test_tokenizer_json_is_passed_on_unchanged(tmp_path: Path) -> None:
    assert tokenizer_of(tmp_path).tokenizer_json == json.dumps(TOKENIZER)


@pytest.mark.parametrize("bos", ["<s>", {"content": "<s>", "special": True}])
def test_special_tokens_are_strings_or_objects(tmp_path: Path, bos: Any) -> None:
    settings = {"bos_token": bos, "eos_token": {"content": "</s>"}, "add_bos_token": True}
    tokenizer = tokenizer_of(tmp_path, tokenizer_config=settings)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert tokenizer.add_bos_token


def test_config_names_the_tokens_where_the_tokenizer_does_not(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))
    assert not tokenizer.add_bos_token


def test_bos_null_is_none_and_never_added(tmp_path: Path) -> None:
    settings = {"bos_token": None, "add_bos_token": True}
    tokenizer = tokenizer_of(tmp_path, tokenizer_config=settings)
    assert tokenizer.bos_token_id is None
    assert not tokenizer.add_bos_token


@pytest.mark.parametrize(("generation", "expected"), [(7, (0, 7, 2)), ([8, 2, 7], (0, 8, 2, 7))])
def test_all_end_tokens_are_joined_the_templates_own_first(
    tmp_path: Path, generation: Any, expected: tuple[int, ...]
) -> None:
    tokenizer = tokenizer_of(
        tmp_path,
        generation_config={"eos_token_id": generation},
        tokenizer_config={"eos_token": "<unk>"},
    )
    assert tokenizer.eos_token_ids == expected


@pytest.mark.parametrize("given", [10**6, -1, "7", [7, 10**6]])
def test_an_end_that_is_no_token_is_said(tmp_path: Path, given: Any) -> None:
    write_folder(tmp_path / "m", files={"generation_config.json": {"eos_token_id": given}})
    opened = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
    assert [text for text in opened.warnings if f"eos_token_id is {given!r}" in text]
    assert opened.tokenizer.eos_token_ids == ((7, 2) if isinstance(given, list) else (2,))


@pytest.mark.parametrize(
    ("processor", "settings", "expected"),
    [
        (BOS_FIRST, {}, True),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, BOS_FIRST]}, {}, True),
        (None, {}, False),
        ({"type": "ByteLevel"}, {}, False),
        (BOS_FIRST, {"add_bos_token": False}, False),
        (None, {"tokenizer_class": "LlamaTokenizer"}, True),
        (None, {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False}, False),
    ],
)
def test_bos_is_added_as_the_settings_or_the_template_say(
    tmp_path: Path, processor: Any, settings: dict[str, Any], expected: bool
) -> None:
    tokenizer = tokenizer_of(
        tmp_path,
        tokenizer={**TOKENIZER, "post_processor": processor},
        tokenizer_config={"bos_token": "<s>", **settings},
    )
    assert tokenizer.add_bos_token is expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "rag", "template": "r"}], "r"),
        ([{"name": "a", "template": "a"}, {"name": "b", "template": "b"}], None),
        (None, None),
    ],
)
def test_chat_template_is_a_string_or_the_default_of_several(
    tmp_path: Path, template: Any, expected: str | None
) -> None:
    tokenizer = tokenizer_of(tmp_path, tokenizer_config={"chat_template": template})
    assert tokenizer.chat_template == expected


def test_template_file_wins(tmp_path: Path) -> None:
    files = {
        "tokenizer_config.json": {"chat_template": "old"},
        "chat_template.jinja": "{{ 'néw' }}",
    }
    write_folder(tmp_path / "m", files=files)
    tokenizer = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path).tokenizer
    assert tokenizer.chat_template == "{{ 'néw' }}"


def test_folder_without_tokenizer_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        tokenizer_of(tmp_path, tokenizer=None)


@pytest.mark.parametrize(
    ("name", "content"),
    [("tokenizer", "{"), ("tokenizer_config", "[]"), ("generation_config", "nonsense"),
     ("tokenizer_config", {"chat_template": 5})],
)  # fmt: skip
def test_bad_file_is_named(tmp_path: Path, name: str, content: Any) -> None:
    with pytest.raises(ModelError, match=rf"{name}\.json"):
        tokenizer_of(tmp_path, **{name: content})


def test_stories_folder_gets_the_leading_space_transformers_gives_it(
    shared: Callable[[str], Path], cache: Path
) -> None:
    """Its tokenizer.json lost the space; ids from the original program's encoder."""
    folder = shared("stories260K")
    cases = json.loads(shared("stories260K_greedy.json").read_text())["cases"]
    config = open_checkpoint(str(folder), cache_dir=cache).tokenizer
    tokenizer = Tokenizer.from_str(config.tokenizer_json)
    assert cases
    for case in cases:
        ids = tokenizer.encode(case["prompt"]).ids
        assert ids == case["prompt_ids"]
        assert tokenizer.decode(ids) == case["prompt"]


def test_folder_with_only_a_sentencepiece_model_converts_it(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    """The Llama 2 vocabulary: the result is the published tokenizer.json, merge for merge."""
    published = json.loads(shared("llama2-tokenizer/tokenizer.json").read_text())
    config = {**CONFIG, "vocab_size": 32000}
    write_folder(tmp_path / "m", config=config, files={"tokenizer.json": None})
    shutil.copy(shared("llama2-tokenizer/tokenizer.model"), tmp_path / "m")
    opened = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path).tokenizer
    ours = json.loads(opened.tokenizer_json)
    assert ours["model"]["vocab"] == published["model"]["vocab"]
    assert [list(m) for m in ours["model"]["merges"]] == [
        m.split(" ") if isinstance(m, str) else m for m in published["model"]["merges"]
    ]
    for part in ("added_tokens", "normalizer", "pre_tokenizer", "decoder"):
        assert ours[part] == published[part], part
    assert opened.bos_token_id == 1 and opened.add_bos_token


def test_published_encodings_through_the_sentencepiece_model(
    shared: Callable[[str], Path], tmp_path: Path
) -> None:
    config = {**CONFIG, "vocab_size": 32000}
    write_folder(tmp_path / "m", config=config, files={"tokenizer.json": None})
    shutil.copy(shared("llama2-tokenizer/tokenizer.model"), tmp_path / "m")
    opened = open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path).tokenizer
    tokenizer = Tokenizer.from_str(opened.tokenizer_json)
    for case in json.loads(shared("llama2_tokenizer_encode.json").read_text())["cases"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=case["bos"]).ids
        assert ids == case["expected_token_ids"], case["name"]


@pytest.mark.parametrize("content", [b"", b"not protobuf", bytes(100), b"\x0a\x7f"])
def test_damaged_sentencepiece_model_is_named(tmp_path: Path, content: bytes) -> None:
    write_folder(tmp_path / "m", files={"tokenizer.json": None})
    (tmp_path / "m" / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.model is not a sentencepiece"):
        open_checkpoint(str(tmp_path / "m"), cache_dir=tmp_path)
