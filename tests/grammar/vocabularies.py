"""Vocabularies of both families, as a server makes them of its model."""

import json
from functools import cache
from pathlib import Path

import pytest
from tests.doubles.demo_model import demo_path
from tests.doubles.tokenizer import byte_tokenizer_config

from llamastream.config import TokenizerConfig
from llamastream.generation import grammars
from llamastream.grammar import Compiled, Grammars, Vocabulary
from llamastream.models import open_checkpoint
from llamastream.text import Tokenizer
from llamastream.types import Constraint, GrammarKind, GrammarSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"


def vocabulary_of(tokenizer: Tokenizer, size: int | None = None) -> Vocabulary:
    return grammars.vocabulary_of(tokenizer, size or tokenizer.num_tokens)


@cache
def tokenizer_of(name: str) -> Tokenizer:
    """bytes: one id a byte. llama2: sentencepiece, whose texts begin with a space. demo: BPE."""
    if name == "bytes":
        return Tokenizer(byte_tokenizer_config())
    if name == "demo":
        path = demo_path()
        return Tokenizer(open_checkpoint(str(path), cache_dir=path.parent).tokenizer)
    file = SHARED / "llama2-tokenizer" / "tokenizer.json"
    if not file.exists():
        pytest.skip("../shared/data/llama2-tokenizer is missing")
    return Tokenizer(
        TokenizerConfig(
            tokenizer_json=file.read_text(),
            bos_token_id=1,
            eos_token_ids=(2,),
            add_bos_token=True,
            chat_template=None,
        )
    )


@cache
def grammars_of(name: str) -> Grammars:
    return Grammars(lambda: vocabulary_of(tokenizer_of(name)))


def compiled(name: str, kind: GrammarKind, text: object, **options: object) -> Compiled:
    """text: JSON is written as such."""
    source = text if isinstance(text, str) else json.dumps(text)
    return grammars_of(name).compile(GrammarSpec(kind, source, **options), True)  # type: ignore[arg-type]


def schema(name: str, text: object, **options: object) -> Compiled:
    return compiled(name, GrammarKind.JSON_SCHEMA, text, **options)


def allowed(constraint: Constraint) -> set[int]:
    mask = constraint.mask()
    bits = int.from_bytes(mask, "little")
    return {i for i in range(len(mask) * 8) if bits >> i & 1}


def takes(grammar: Compiled, tokenizer: Tokenizer, ids: list[int]) -> bool:
    """Whether masks let `ids` be drawn one by one, and the answer end there."""
    constraint = grammar.start()
    for token_id in ids:
        if token_id not in allowed(constraint):
            return False
        constraint.append([token_id])
    return set(tokenizer.eos_token_ids) <= allowed(constraint)
