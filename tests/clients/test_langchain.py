"""langchain-tests' standard suite, over chats and over responses."""

from typing import Any

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class Suite(ChatModelIntegrationTests):
    url = ""

    @pytest.fixture(autouse=True)
    def at_the_server(self, base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Suite, "url", f"{base_url}/v1")

    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "demo",
            "base_url": self.url,
            "api_key": "none",
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return False

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        return {"invoke": ["reasoning_output"], "stream": ["reasoning_output"]}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> Any:
        model = self.chat_model_class(**self.chat_model_params)
        asked = "think Not long.\nsay Yes."
        if not stream:
            return model.invoke(asked)
        chunks = list(model.stream(asked))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return whole


class TestChats(Suite):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestSchemas(Suite):
    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}


class TestResponses(Suite):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return super().chat_model_params | {"use_responses_api": True}

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}
