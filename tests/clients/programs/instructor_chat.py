from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel
from told import MODEL, URL, tell


class Capital(BaseModel):
    city: Literal["Paris", "Rome"]


client = instructor.from_openai(
    OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), mode=instructor.Mode.JSON_SCHEMA
)
answer = client.chat.completions.create(
    model=MODEL,
    response_model=Capital,
    messages=[{"role": "user", "content": "What is the capital of France? Answer in JSON."}],
    max_tokens=50,
)
tell(answer.city)
