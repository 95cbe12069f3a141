from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from told import MODEL, QUESTION, URL, add, tell, weather

model = ChatAnthropic(model=MODEL, base_url=URL, api_key="none", max_tokens=200)
agent = create_agent(model, tools=[weather, add])
result = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})
tell(result["messages"][-1].text)
