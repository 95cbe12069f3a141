from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from told import MODEL, QUESTION, URL, add, tell, weather

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
agent = Agent(
    name="agent",
    instructions="Use the tools.",
    model=OpenAIChatCompletionsModel(MODEL, client),
    tools=[function_tool(weather), function_tool(add)],
    model_settings=ModelSettings(max_tokens=200),
)
tell(str(Runner.run_sync(agent, QUESTION, max_turns=8).final_output))
