"""pydantic-ai, OpenAI's Agents SDK and smolagents: whole loops, as they run them."""

from typing import Any, Literal

import pytest

pytest.importorskip("langchain_tests", reason="needs the clients' environment")

import agents
import openai
import smolagents
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

ASKED = (
    'call weather {"city": "Oslo"}\ncall weather {"city": "Rome"}\nsay Cold in Oslo, warm in Rome.'
)
RESULTS = {"Oslo": "-3", "Rome": "21"}


class Report(BaseModel):
    city: str
    degrees: int
    kind: Literal["cold", "warm"]


@pytest.fixture(params=["chats", "responses", "messages"])
def model(request: pytest.FixtureRequest, base_url: str) -> Any:
    if request.param == "messages":
        provider = AnthropicProvider(base_url=base_url, api_key="none")
        # What models can do is known by their names.
        profile = {"supports_json_schema_output": True}
        return AnthropicModel("demo", provider=provider, profile=profile)
    kind = OpenAIChatModel if request.param == "chats" else OpenAIResponsesModel
    return kind("demo", provider=OpenAIProvider(base_url=f"{base_url}/v1", api_key="none"))


def with_tools(agent: Agent[None, Any]) -> list[str]:
    asked: list[str] = []

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return RESULTS[city]

    return asked


async def test_pydantic_ai_runs_a_loop(model: Any) -> None:
    agent = Agent(model)
    asked = with_tools(agent)
    result = await agent.run(ASKED)
    assert (sorted(asked), result.output) == (["Oslo", "Rome"], "Cold in Oslo, warm in Rome.")


async def test_pydantic_ai_streams_a_loop(model: Any) -> None:
    agent = Agent(model)
    asked = with_tools(agent)
    async with agent.run_stream(ASKED) as result:
        pieces = [piece async for piece in result.stream_text(delta=True)]
    assert sorted(asked) == ["Oslo", "Rome"]
    assert "".join(pieces) == "Cold in Oslo, warm in Rome."


@pytest.mark.parametrize("kind", [ToolOutput, NativeOutput])
async def test_pydantic_ai_reads_types(model: Any, kind: Any) -> None:
    agent = Agent(model, output_type=kind(Report))
    given = '{"city":"Oslo","degrees":-3,"kind":"cold"}'
    step = f"call final_result {given}" if kind is ToolOutput else f"say {given}"
    result = await agent.run(step)
    assert result.output == Report(city="Oslo", degrees=-3, kind="cold")


@pytest.fixture(params=[agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel])
def agents_model(request: pytest.FixtureRequest, base_url: str) -> Any:
    client = openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none")
    return request.param(model="demo", openai_client=client)


@agents.function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return RESULTS[city]


async def test_openai_agents_run_a_loop(agents_model: Any) -> None:
    agent = agents.Agent(name="Weather", model=agents_model, tools=[weather])
    result = await agents.Runner.run(agent, ASKED)
    assert result.final_output == "Cold in Oslo, warm in Rome."
    streamed = agents.Runner.run_streamed(agent, ASKED)
    kinds = [event.type async for event in streamed.stream_events()]
    assert "raw_response_event" in kinds
    assert streamed.final_output == "Cold in Oslo, warm in Rome."
    outputs = [i.output for i in streamed.new_items if i.type == "tool_call_output_item"]
    assert sorted(outputs) == ["-3", "21"]


async def test_openai_agents_hand_off(agents_model: Any) -> None:
    north = agents.Agent(name="North", model=agents_model, tools=[weather])
    first = agents.Agent(name="First", model=agents_model, handoffs=[north])
    asked = 'call transfer_to_north {}\nthen\ncall weather {"city": "Oslo"}\nsay It is -3.'
    result = await agents.Runner.run(first, asked)
    assert (result.last_agent.name, result.final_output) == ("North", "It is -3.")


async def test_openai_agents_read_types(agents_model: Any) -> None:
    agent = agents.Agent(name="A", model=agents_model, tools=[weather], output_type=Report)
    said = 'call weather {"city": "Oslo"}\nsay {"city":"Oslo","degrees":-3,"kind":"cold"}'
    result = await agents.Runner.run(agent, said)
    assert result.final_output == Report(city="Oslo", degrees=-3, kind="cold")
    session = agents.SQLiteSession("one")
    for number in range(2):
        result = await agents.Runner.run(agent, said, session=session)
        assert result.final_output.degrees == -3, number


class Weather(smolagents.Tool):
    name = "weather"
    description = "The weather of a city."
    inputs = {"city": {"type": "string", "description": "Which."}}
    output_type = "string"

    def forward(self, city: str) -> str:
        return RESULTS[city]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_smolagents_call_tools(base_url: str, is_streamed: bool) -> None:
    model = smolagents.OpenAIServerModel("demo", api_base=f"{base_url}/v1", api_key="none")
    agent = smolagents.ToolCallingAgent(
        tools=[Weather()], model=model, stream_outputs=is_streamed, verbosity_level=0
    )
    said = 'call weather {"city": "Oslo"}\nthen\ncall final_answer {"answer": "It is -3."}'
    assert agent.run(said) == "It is -3."


@pytest.mark.parametrize("is_structured", [False, True])
def test_smolagents_write_code(base_url: str, is_structured: bool) -> None:
    model = smolagents.OpenAIServerModel("demo", api_base=f"{base_url}/v1", api_key="none")
    agent = smolagents.CodeAgent(
        tools=[Weather()],
        model=model,
        use_structured_outputs_internally=is_structured,
        verbosity_level=0,
    )
    if is_structured:
        said = 'say {"thought":"I look.","code":"final_answer(weather(\'Oslo\') + \' degrees\')"}'
    else:
        said = "say <code>final_answer(weather('Oslo') + ' degrees')</code>"
    assert agent.run(said) == "-3 degrees"
