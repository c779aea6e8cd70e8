"""The tokenizer of a folder in Hugging Face layout, as one TokenizerConfig.

Which file wins where several say the same thing follows transformers: chat_template.jinja over
tokenizer_config.json, that over special_tokens_map.json, and the tokens that end a turn are those
of generation_config.json, config.json and tokenizer_config.json together.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamastream.config import TokenizerConfig
from llamastream.errors import ModelError, reading
from llamastream.models.checkpoint import Warn
from llamastream.models.tokenizer_document import (
    Added,
    Document,
    token_ids,
    with_added_tokens,
    with_prefix_space,
)

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
MAX_ADDED_ID = 2**31 - 1
SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATES = "additional_chat_templates"  # a folder of NAME.jinja


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; empty when there is no such file. Raises ModelError for a bad one."""
    with reading(file):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{file} is not valid JSON: {error}. Download it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} must hold a JSON object.")
    return value


def read_tokenizer(
    folder: Path, model_config: Mapping[str, Any], vocab_size: int, warn: Warn
) -> TokenizerConfig:
    """Raises ModelError when `folder` has no usable tokenizer."""
    with reading(folder / SETTINGS):
        settings = read_json(folder / "special_tokens_map.json") | read_json(folder / SETTINGS)
        added = _added_tokens(folder, settings)
        templates = _chat_templates(folder, settings)
        variables = {name: text for name in NAMED if (text := _text(settings.get(name)))}
    text, document, odd = _tokenizer_json(folder, settings, added)
    with reading(folder / "tokenizer.json"):
        vocabulary = token_ids(document)
        adds_bos = _adds_bos(settings, document)
    ids = {name: vocabulary.get(token) for name, token in variables.items()}
    for name in ("bos_token", "eos_token"):
        if name in variables and ids[name] is None:
            warn(f"{name} of {SETTINGS} is {variables[name]!r:.80}, which is no token")
    bos = ids.get("bos_token")
    if bos is None and settings.get("bos_token", "") is not None:
        bos = next(iter(_ids(model_config, "bos_token_id", vocab_size, warn)), None)
    eos = ids.get("eos_token")
    ends = [] if eos is None else [eos]
    generation = read_json(folder / "generation_config.json")
    for values in (generation, model_config):
        ends += _ids(values, "eos_token_id", vocab_size, warn)
    return TokenizerConfig(
        tokenizer_json=text,
        bos_token_id=bos,
        eos_token_ids=tuple(dict.fromkeys(ends)),
        add_bos_token=adds_bos and bos is not None,
        chat_template=_default(templates, warn),
        named_templates=templates,
        template_variables=variables,
        odd_pieces=odd,
        vocab_size=vocab_size,
        source=str(folder / "tokenizer.json"),
    )


def _tokenizer_json(
    folder: Path, settings: Mapping[str, Any], added: Mapping[int, Added]
) -> tuple[str, Document, dict[int, str]]:
    """The text for the library, the same parsed, and the bytes of `odd_pieces`."""
    file, model = folder / "tokenizer.json", folder / "tokenizer.model"
    document = read_json(file)
    odd: dict[int, str] = {}
    if document:
        text = file.read_text(encoding="utf-8")
    elif model.is_file():
        # Deferred: protobuf takes 20 ms to import, and most folders have the other file.
        from llamastream.models import sentencepiece_model

        text, odd = sentencepiece_model.convert(model, added)
        document = json.loads(text)
    else:
        raise ModelError(
            f"{folder} has neither tokenizer.json nor tokenizer.model. Copy the model's "
            "tokenizer.json there: transformers' AutoTokenizer.save_pretrained writes one."
        )
    with reading(file):
        changed = with_added_tokens(document, added)
        # transformers gives these classes sentencepiece's spaces, whatever the file says.
        is_llama = settings.get("tokenizer_class") in LLAMA_CLASSES
        if is_llama and settings.get("add_prefix_space") in (None, True):
            changed = with_prefix_space(changed, legacy=settings.get("legacy") is True)
        if changed is not document:
            text = json.dumps(changed, ensure_ascii=False, separators=(",", ":"))
    return text, changed, odd


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[int, Added]:
    """By id, of added_tokens.json and of tokenizer_config.json, which knows more of each."""
    file = folder / "added_tokens.json"
    found = {}
    with reading(file):
        for text, token_id in read_json(file).items():
            found[_added_id(token_id, file)] = Added(text)
    for key, token in (settings.get("added_tokens_decoder") or {}).items():
        token_id = _added_id(int(key), folder / SETTINGS)
        flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
        found[token_id] = Added(str(token["content"]), *(bool(token.get(f)) for f in flags))
    return found


def _added_id(value: Any, file: Path) -> int:
    if not isinstance(value, int) or not 0 <= value <= MAX_ADDED_ID:
        raise ModelError(
            f"{file}: an added token's id must be an integer >= 0. Given: {value!r:.80}."
        )
    return value


def _text(token: Any) -> str | None:
    """`token` is a string, or an object with its string in "content"."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _ids(values: Mapping[str, Any], name: str, vocab_size: int, warn: Warn) -> list[int]:
    """The token ids that a configuration names: one, several or none."""
    value = values.get(name)
    given = value if isinstance(value, list) else [] if value is None else [value]
    found = [i for i in given if type(i) is int and 0 <= i < vocab_size]
    if len(found) < len(given):
        warn(f"{name} is {value!r:.80}, of which what is no token is left out")
    return found


def _adds_bos(settings: Mapping[str, Any], document: Document) -> bool:
    given = settings.get("add_bos_token")
    if given is not None:
        return bool(given)
    return settings.get("tokenizer_class") in LLAMA_CLASSES or _template_adds_bos(document)


def _template_adds_bos(document: Document) -> bool:
    """Whether the post-processor puts a special token in front of the text."""
    processor = document.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            return "SpecialToken" in step["single"][0]
    return False


def _chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name, the unnamed one as "default"."""
    given = settings.get("chat_template")
    if isinstance(given, list):
        named = {entry["name"]: entry["template"] for entry in given}
    else:
        named = given if isinstance(given, dict) else {} if given is None else {"default": given}
    if not all(isinstance(template, str) for template in named.values()):
        raise ModelError(f"{folder / SETTINGS}: chat_template must be a string.")
    files = {file.stem: file for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    files |= {"default": folder / TEMPLATE} if (folder / TEMPLATE).is_file() else {}
    return dict(named) | {name: read_template(file) for name, file in files.items()}


def read_template(file: Path) -> str:
    with reading(file, "It must be a text in UTF-8."):
        return file.read_text(encoding="utf-8")


def _default(templates: Mapping[str, str], warn: Warn) -> str | None:
    if len(templates) == 1:
        return next(iter(templates.values()))
    if templates and "default" not in templates:
        names = ", ".join(templates)
        warn(f"none of its chat templates is the default: choose one, --chat-template {names}")
    return templates.get("default")
