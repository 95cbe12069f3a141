from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from told import MODEL, QUESTION, URL, add, tell, weather

model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
agent = Agent(model, tools=[weather, add], model_settings={"max_tokens": 200})
tell(agent.run_sync(QUESTION).output)
