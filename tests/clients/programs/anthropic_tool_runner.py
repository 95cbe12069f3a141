import anthropic
from told import MODEL, QUESTION, URL, add, tell, weather

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
runner = client.beta.messages.tool_runner(
    model=MODEL,
    max_tokens=200,
    tools=[anthropic.beta_tool(weather), anthropic.beta_tool(add)],
    messages=[{"role": "user", "content": QUESTION}],
    max_iterations=6,
)
message = runner.until_done()
tell("".join(block.text for block in message.content if block.type == "text"))
