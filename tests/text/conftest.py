"""Tokenizers that several tests of the chat layer use; each is loaded once."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_builders import SHARED, config_of, llama3_json, train_byte_level
from tests.doubles.demo_model import demo_path
from tokenizers import Tokenizer as HFTokenizer

from llamastream.config import TokenizerConfig
from llamastream.models import open_checkpoint
from llamastream.text import Tokenizer


@pytest.fixture(scope="session")
def shared_json() -> Callable[[str], Any]:
    if not SHARED.is_dir():
        pytest.skip("needs the test data in ../shared/data")
    return lambda name: json.loads((SHARED / name).read_text())


@pytest.fixture(scope="session")
def llama2_config() -> TokenizerConfig:
    file = SHARED / "llama2-tokenizer" / "tokenizer.json"
    if not file.is_file():
        pytest.skip("needs the Llama 2 tokenizer in ../shared/data")
    return TokenizerConfig(file.read_text(), 1, (2,), True)


@pytest.fixture(scope="session")
def llama2(llama2_config: TokenizerConfig) -> Tokenizer:
    return Tokenizer(llama2_config)


@pytest.fixture(scope="session")
def byte_level_hf() -> HFTokenizer:
    return train_byte_level()


@pytest.fixture(scope="session")
def byte_level(byte_level_hf: HFTokenizer) -> Tokenizer:
    return Tokenizer(config_of(byte_level_hf))


@pytest.fixture(scope="session")
def llama3() -> Tokenizer:
    """Llama 3's tokenizer, from Meta's package `llama-models` (installed with --no-deps)."""
    spec = importlib.util.find_spec("llama_models")
    if spec is None or spec.origin is None:
        pytest.skip("needs Llama 3's tokenizer: pip install --no-deps llama-models==0.3.0")
    text = llama3_json(Path(spec.origin).parent / "llama3" / "tokenizer.model")
    return Tokenizer(TokenizerConfig(text, 128000, (128001, 128008, 128009), True))


@pytest.fixture(scope="session")
def demo_config(tmp_path_factory: pytest.TempPathFactory) -> TokenizerConfig:
    cache_dir = tmp_path_factory.mktemp("cache")
    return open_checkpoint(str(demo_path()), cache_dir=cache_dir).tokenizer
