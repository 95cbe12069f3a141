import json

import litellm
from told import FUNCTIONS, MODEL, QUESTION, SCHEMAS, URL, tell

tools = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
messages = [{"role": "user", "content": QUESTION}]
for _ in range(6):
    answer = litellm.completion(
        model=f"openai/{MODEL}",
        api_base=f"{URL}/v1",
        api_key="none",
        messages=messages,
        tools=tools,
        max_tokens=200,
        num_retries=0,
    )
    message = answer.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    for call in message.tool_calls or []:
        result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    if not message.tool_calls:
        break
tell(message.content)
