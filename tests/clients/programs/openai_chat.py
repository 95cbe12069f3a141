import json

from openai import OpenAI
from told import FUNCTIONS, MODEL, QUESTION, SCHEMAS, URL, tell

client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
tools = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
messages = [{"role": "user", "content": QUESTION}]
for _ in range(6):
    with client.chat.completions.stream(
        model=MODEL, messages=messages, tools=tools, max_tokens=200
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    messages.append(message.to_dict())
    for call in message.tool_calls or []:
        result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    if not message.tool_calls:
        break
tell(message.content)
