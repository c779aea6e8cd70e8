"""The tokenizer of a folder in Hugging Face layout, as one TokenizerConfig.

Which file wins where several say the same thing follows transformers: chat_template.jinja over
tokenizer_config.json, and the tokens that end a turn are those of generation_config.json,
config.json and tokenizer_config.json together.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamastream.config import TokenizerConfig
from llamastream.errors import ModelError
from llamastream.models import sentencepiece_model
from llamastream.models.tokenizer_json import with_space_prefix

LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; empty when there is no such file. Raises ModelError for a bad one."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} must hold a JSON object.")
    return value


def read_tokenizer(folder: Path, model_config: Mapping[str, Any]) -> TokenizerConfig:
    """Raises ModelError when `folder` has no usable tokenizer."""
    settings = read_json(folder / "tokenizer_config.json")
    text, document = _tokenizer_json(folder, settings)
    vocabulary = _token_ids(document)
    bos = _token_id(settings.get("bos_token"), vocabulary)
    if bos is None and "bos_token" not in settings:
        bos = next(iter(_ids(model_config.get("bos_token_id"))), None)
    generation = read_json(folder / "generation_config.json")
    eos = _token_id(settings.get("eos_token"), vocabulary)
    ends = [] if eos is None else [eos]  # first: it is what templates call eos_token
    ends += [*_ids(generation.get("eos_token_id")), *_ids(model_config.get("eos_token_id"))]
    add_bos = settings.get("add_bos_token")
    if add_bos is None:
        add_bos = settings.get("tokenizer_class") in LLAMA_CLASSES or _template_adds_bos(document)
    return TokenizerConfig(
        tokenizer_json=text,
        bos_token_id=bos,
        eos_token_ids=tuple(dict.fromkeys(ends)),
        add_bos_token=bool(add_bos) and bos is not None,
        chat_template=_chat_template(folder, settings),
    )


def _tokenizer_json(folder: Path, settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    file = folder / "tokenizer.json"
    document = read_json(file)
    if not document:
        model = folder / "tokenizer.model"
        if not model.is_file():
            raise ModelError(
                f"{folder} has neither tokenizer.json nor tokenizer.model. Copy the model's "
                "tokenizer.json there: transformers' AutoTokenizer.save_pretrained writes one."
            )
        text = sentencepiece_model.convert(model)
        return text, json.loads(text)
    # transformers gives these classes sentencepiece's leading space even if the file lost it.
    if settings.get("tokenizer_class") in LLAMA_CLASSES:
        prefix = settings.get("add_prefix_space")
        repaired = with_space_prefix(document) if prefix in (None, True) else None
        if repaired is not None:
            return json.dumps(repaired, ensure_ascii=False, separators=(",", ":")), repaired
    return file.read_text(encoding="utf-8"), document


def _token_ids(document: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = dict((document.get("model") or {}).get("vocab") or {})
    added = document.get("added_tokens") or ()
    return vocabulary | {token["content"]: token["id"] for token in added}


def _token_id(token: Any, vocabulary: Mapping[str, int]) -> int | None:
    """`token` is a string, or an object with its string in "content"."""
    text = token.get("content") if isinstance(token, dict) else token
    return vocabulary.get(text) if isinstance(text, str) else None


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int)]


def _template_adds_bos(document: Mapping[str, Any]) -> bool:
    """Whether the post-processor puts a special token in front of the text."""
    processor = document.get("post_processor") or {}
    for step in processor.get("processors", [processor]):
        if step.get("type") == "TemplateProcessing":
            return "SpecialToken" in step["single"][0]
    return False


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default", template[0]["template"] if len(template) == 1 else None)
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{folder / 'tokenizer_config.json'}: chat_template must be a string.")
    return template
