from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from told import MODEL, QUESTION, URL, add, tell, weather

model = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", max_tokens=200)
agent = create_agent(model, tools=[weather, add])
result = agent.invoke({"messages": [{"role": "user", "content": QUESTION}]})
tell(result["messages"][-1].text)
