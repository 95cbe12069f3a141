import asyncio

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.llms.openai_like import OpenAILike
from told import MODEL, QUESTION, URL, add, tell, weather


async def main() -> None:
    llm = OpenAILike(
        model=MODEL,
        api_base=f"{URL}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=200,
    )
    agent = FunctionAgent(tools=[weather, add], llm=llm, system_prompt="Use the tools.")
    tell(str(await agent.run(QUESTION)))


asyncio.run(main())
