"""The service in front of engines on other machines, from a folder that holds no weights."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI, BadRequestError

from llamastream.app import assemble, join_store
from llamastream.config import EngineSettings, ModelSettings, StoreSettings
from llamastream.errors import ConfigError
from tests.doubles.server import running_server, serving
from tests.doubles.tokenizer import CHATML, byte_tokenizer_config
from tests.doubles.vllm import StandIn, next_id
from tests.doubles.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 258,
        "eos_token_id": 257,
        "quantization_config": {"quant_method": "fp8"},  # of no concern here
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(byte_tokenizer_config().tokenizer_json)
    template = {"chat_template": CHATML, "eos_token": "<|im_end|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(template))
    return folder


@asynccontextmanager
async def served(folder: Path, *urls: str) -> AsyncIterator[AsyncOpenAI]:
    engines = EngineSettings(engine_url=urls)
    assembly = assemble(ModelSettings(model=str(folder), data_dir=folder.parent), engines=engines)
    stored = join_store(assembly.answers, StoreSettings(), data_dir=folder.parent)
    await assembly.answers.start()
    await stored.start()
    await assembly.engine.ready()
    try:
        async with running_server(assembly.answers, stored=stored) as url:
            async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
                yield client
    finally:
        await assembly.answers.stop()
        await stored.stop()


def said(prompt: list[int], num_tokens: int) -> str:
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(next_id(ids))
    return bytes(ids[len(prompt) :]).decode(errors="replace")


async def test_a_stored_answer_goes_on_after_engine_and_server_died(folder: Path) -> None:
    first, second = StandIn(), StandIn()
    first.dies_after, second.holds_after = 10, 20
    async with serving(first.app) as one, serving(second.app) as two:
        async with served(folder, one) as client:
            response = await client.responses.create(
                model="tiny", input="hello", max_output_tokens=60, background=True, temperature=0
            )
            await until(lambda: first.is_dead)
        async with served(folder, two) as client:
            await until(lambda: second.num_drawn == 20)
        second.holds_after = None
        async with served(folder, two) as client:
            text = ""
            async for event in await client.responses.retrieve(response.id, stream=True):
                if event.type == "response.output_text.delta":
                    text += event.delta
    prompt = first.bodies[0]["token_ids"]
    assert text == said(prompt, 60)
    assert [len(body["token_ids"]) - len(prompt) for body in second.bodies] == [10, 30]


async def test_structured_output_is_refused(folder: Path) -> None:
    async with serving(StandIn().app) as url, served(folder, url) as client:
        with pytest.raises(BadRequestError, match="--engine-url. Leave response_format"):
            await client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "hello"}],
                response_format={"type": "json_object"},
            )


def test_options_of_the_engine_here_are_refused(folder: Path) -> None:
    engines = EngineSettings(engine_url=("http://127.0.0.1:1",))
    with pytest.raises(ConfigError, match="--threads is about the engine of this machine"):
        assemble(ModelSettings(model=str(folder), threads=1), engines=engines)
