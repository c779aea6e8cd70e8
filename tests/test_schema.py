"""The documents that clients import, and how they agree with the article's."""

import subprocess
import sys

import pytest
from docarray import BaseDoc

from llamastream.jina.documents import PromptRequest, StoreOptions
from llamastream.schema import ModelOutputDocument, PromptDocument


class ArticlePrompt(BaseDoc):
    prompt: str
    max_tokens: int


class ArticleOutput(BaseDoc):
    token_id: int
    generated_text: str


def test_article_fields_are_enough() -> None:
    prompt = PromptDocument(prompt="Hi", max_tokens=3)
    output = ModelOutputDocument(token_id=1, generated_text="a")
    assert (prompt.prompt, prompt.max_tokens) == ("Hi", 3)
    assert (output.token_id, output.generated_text) == (1, "a")


def test_both_sides_read_each_other() -> None:
    ours = PromptDocument.from_protobuf(ArticlePrompt(prompt="Hi", max_tokens=3).to_protobuf())
    assert (ours.prompt, ours.max_tokens, ours.temperature) == ("Hi", 3, None)
    full = ModelOutputDocument(token_id=1, generated_text="a", finish_reason="stop", logprob=-0.5)
    theirs = ArticleOutput.from_protobuf(full.to_protobuf())
    assert (theirs.token_id, theirs.generated_text) == (1, "a")


def test_all_fields_survive_the_wire() -> None:
    prompt = PromptDocument(
        messages=[{"role": "user", "content": "Hi"}], max_tokens=3, stop=["a", "b"], top_p=0.5
    )
    assert PromptDocument.from_protobuf(prompt.to_protobuf()) == prompt


def test_a_prompt_or_messages_are_needed() -> None:
    for fields in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}):
        with pytest.raises(ValueError, match="prompt or messages"):
            PromptDocument(max_tokens=3, **fields)


def test_server_reads_every_field_of_the_document() -> None:
    values = {
        "prompt": "a",
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 2,
        "min_p": 0.5,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "seed": 1,
        "stop": ["a"],
        "ignore_eos": True,
        "truncation": "auto",
        "logprobs": True,
        "json_schema": "{}",
    }
    others = {"id", "messages", "tools", "api_key", *StoreOptions.model_fields}
    assert set(values) == set(PromptDocument.model_fields) - others
    plain = PromptRequest({"prompt": "a", "max_tokens": 3}).to_request()
    for name in values.keys() - {"prompt", "max_tokens"}:
        fields = {"prompt": "a", "max_tokens": 3, name: values[name]}
        assert PromptRequest(fields).to_request() != plain, f"{name} has no effect"


def test_a_stream_id_stands_for_the_prompt() -> None:
    again = PromptDocument(stream_id="stream_1", starting_after=3)
    assert PromptDocument.from_protobuf(again.to_protobuf()) == again


def test_server_imports_neither_docarray_nor_jina() -> None:
    script = "import sys, llamastream.jina.grpc_server; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"docarray", "jina"} & set(run.stdout.split())
