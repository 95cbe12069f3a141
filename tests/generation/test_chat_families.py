"""Calls in the forms of many families, written by the demo model under strict schemas.

It has never seen these forms: what it writes is random, which is what the grammars must hold. One engine
serves all, each behind the format that is learnt from a family's template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from template_corpus import template_source

from predictor.api.http.engine_requests import engine_requests
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text
from predictor.chat.format import AnswerWish, ChatFormat
from predictor.chat.prompting import Conversation
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import read_tools
from predictor.engine.config import EngineConfig
from predictor.engine.engine import Engine
from predictor.engine.request import SamplingParams
from predictor.errors import InvalidRequest
from predictor.generation.chat import ChatAnswer, ChatRequest
from predictor.generation.text import TextGenerator

QUICK = ("LFM2.5-8B-A1B", "MiniMax-M3", "deepseek-ai-DeepSeek-V3.2", "google-gemma-4-31B-it")
SLOW = (
    "ByteDance-Seed-OSS",
    "GLM-4.6",
    "Kimi-K3",
    "MiniMax-M2",
    "Qwen3-Coder",
    "ibm-granite-granite-4.0",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    "openai-gpt-oss-120b",
    "openbmb-MiniCPM5-1B",
    "tencent-Hy3",
)
FAMILIES = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW))
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
        "note": {"type": "string", "minLength": 1, "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "tags": {"type": "array", "items": {"enum": ["a", "it's"]}, "minItems": 1, "maxItems": 2},
        "more": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
    },
    "required": ["code", "note", "days", "tags", "more"],
    "additionalProperties": False,
}
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[Engine]:
    engine = Engine(EngineConfig(model_path=model_path, threads=2, batch_threads=2))
    yield engine
    engine.close()


def generator(engine: Engine, family: str) -> TextGenerator:
    model = engine.model
    template = ChatTemplate(template_source(family), model.bos_text, model.eos_text)
    return TextGenerator("smol", engine, ChatFormat(template))


def request(schema: dict[str, Any], wish: AnswerWish, *, strict: bool = True) -> ChatRequest:
    function = {"name": "weather.get", "strict": strict, "parameters": schema}
    other = {"name": "never", "parameters": {"type": "object", "properties": {}}}
    tools = read_tools([{"type": "function", "function": each} for each in (other, function)])
    return ChatRequest(Conversation(QUESTION, tools, {"enable_thinking": False}), wish, thought_tokens=8)


async def answer_to(generator: TextGenerator, asked: ChatRequest) -> ChatAnswer:
    chat = await generator.prepare_chat(asked)
    params = SamplingParams(max_tokens=400, temperature=1.2, seed=7)
    requests = engine_requests([chat.tokens], params, 1, chat.make_constraint, chat.marks)
    [answer] = await generator.complete_chat(requests, [chat.reader()])
    return answer


def calls_of(events: list[Event]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, CallStarted):
            calls.append((event.name, ""))
        elif isinstance(event, ArgumentsPart):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return calls


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_named_function_is_called_as_its_strict_schema_says(engine: Engine, family: str) -> None:
    wish = AnswerWish(tool="weather.get", parallel=False)
    answer = await answer_to(generator(engine, family), request(SCHEMA, wish))
    [(name, arguments)] = calls_of(answer.events)
    assert name == "weather.get"
    jsonschema.validate(json.loads(arguments), SCHEMA)
    assert answer.has_calls
    assert not any(event.text.strip() for event in answer.events if isinstance(event, Text))


async def test_what_the_form_cannot_be_held_to_is_refused_or_named(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "(?=a)b"}, "b": {"not": {}}},
    }
    chats = generator(engine, "MiniMax-M3")
    wish = AnswerWish(required=True)
    with pytest.raises(InvalidRequest, match="tools can't be used") as caught:
        await chats.prepare_chat(request(schema, wish))
    assert caught.value.param == "tools"
    lenient = await chats.prepare_chat(request(schema, wish, strict=False))
    assert lenient.make_constraint is not None
    assert lenient.make_constraint.not_enforced == (
        "tools[1]/properties/a/pattern",
        "tools[1]/properties/b/not",
    )
