import json

import litellm
from told import FUNCTIONS, MODEL, QUESTION, SCHEMAS, URL, tell

tools = [{"type": "function", "name": n, "parameters": s} for n, s in SCHEMAS.items()]
items = [{"role": "user", "content": QUESTION}]
for _ in range(6):
    response = litellm.responses(
        model=f"openai/{MODEL}",
        api_base=f"{URL}/v1",
        api_key="none",
        input=items,
        tools=tools,
        max_output_tokens=200,
    )
    output = [
        item if isinstance(item, dict) else item.model_dump(exclude_none=True) for item in response.output
    ]
    items += output
    calls = [item for item in output if item["type"] == "function_call"]
    for call in calls:
        result = FUNCTIONS[call["name"]](**json.loads(call["arguments"]))
        items.append({"type": "function_call_output", "call_id": call["call_id"], "output": result})
    if not calls:
        break
texts = [part["text"] for item in output if item["type"] == "message" for part in item["content"]]
tell("".join(texts))
