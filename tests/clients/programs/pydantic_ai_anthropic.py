from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from told import MODEL, QUESTION, URL, add, tell, weather

model = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key="none"))
agent = Agent(model, tools=[weather, add], model_settings={"max_tokens": 200})
tell(agent.run_sync(QUESTION).output)
