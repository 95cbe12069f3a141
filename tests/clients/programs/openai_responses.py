import asyncio
import json

from openai import AsyncOpenAI
from told import FUNCTIONS, MODEL, QUESTION, SCHEMAS, URL, tell


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    tools = [{"type": "function", "name": n, "parameters": s, "strict": True} for n, s in SCHEMAS.items()]
    items = [{"role": "user", "content": QUESTION}]
    for _ in range(6):
        async with client.responses.stream(
            model=MODEL, input=items, tools=tools, max_output_tokens=200
        ) as stream:
            response = await stream.get_final_response()
        items += [item.to_dict() for item in response.output]
        calls = [item for item in response.output if item.type == "function_call"]
        for call in calls:
            output = FUNCTIONS[call.name](**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
        if not calls:
            break
    tell(response.output_text)


asyncio.run(main())
