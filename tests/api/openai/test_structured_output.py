"""`response_format` and `grammar` on a running server with the demo model.

It is a weak model: what is tested is that its answers have the form they must have, not what they say.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any, Literal

import jsonschema
import openai
import pydantic
import pytest
from small_schemas import SCHEMAS

QUESTION = [{"role": "user", "content": "Describe a person from Paris in JSON."}]
DEFAULTS = {"messages": QUESTION, "temperature": 0, "max_tokens": 100}
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"


def json_schema(schema: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": strict}}


async def test_fifty_schemas_at_once_beside_free_requests(server: Any) -> None:
    url = server.http_url + "/v1"
    limit = asyncio.Semaphore(8)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=280) as client:

        async def answer(index: int, schema: dict[str, Any]) -> tuple[str, str]:
            async with limit:
                stream = await client.chat.completions.create(
                    model=server.model_name,
                    messages=QUESTION,
                    response_format=json_schema(schema),
                    temperature=0.7 if index % 3 else 0,
                    seed=index,
                    max_tokens=90,
                    stream=index % 2 == 0,
                )
                if index % 2:
                    choice = stream.choices[0]
                    return choice.message.content, choice.finish_reason
                text, reason = "", ""
                async for chunk in stream:
                    text += chunk.choices[0].delta.content or ""
                    reason = chunk.choices[0].finish_reason or reason
                return text, reason

        async def count() -> str:
            async with limit:
                answer = await client.completions.create(
                    model=server.model_name, prompt=COUNTING, temperature=0, max_tokens=24
                )
                return answer.choices[0].text

        alone = await count()
        jobs = [answer(i, schema) for i, schema in enumerate(SCHEMAS)]
        *results, first, second, third = await asyncio.gather(*jobs, count(), count(), count())
    finished = 0
    for schema, (text, reason) in zip(SCHEMAS, results, strict=True):
        if reason == "length":
            continue
        assert reason == "stop"
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
        finished += 1
    assert len(SCHEMAS) == 50
    assert finished >= 45
    assert alone == first == second == third
    assert "13" in alone


def test_json_object_is_an_object(ask: Any) -> None:
    answer = ask(response_format={"type": "json_object"}, max_tokens=60, n=2, temperature=1, seed=3)
    for choice in answer.choices:
        assert choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
    small = ask(response_format={"type": "json_object", "schema": {"type": "object", "maxProperties": 0}})
    assert json.loads(small.choices[0].message.content) == {}


def test_text_is_free(ask: Any) -> None:
    ask(max_tokens=12)  # from here on the prompt is cached, and all answers are computed alike
    plain = ask(max_tokens=12).choices[0].message.content
    assert ask(max_tokens=12, response_format={"type": "text"}).choices[0].message.content == plain


def test_an_answer_that_is_cut_says_so(ask: Any) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
    choice = ask(response_format=json_schema(schema), max_tokens=10).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content.startswith("[")


def test_every_choice_has_its_own_constraint_and_ignore_eos_yields(ask: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": list(range(100))}}, "required": ["n"]}
    answer = ask(
        response_format=json_schema({**schema, "additionalProperties": False}),
        n=4,
        temperature=1.5,
        seed=1,
        extra_body={"ignore_eos": True},
    )
    values = [json.loads(choice.message.content)["n"] for choice in answer.choices]
    assert len(set(values)) > 1
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def test_logprobs_come_with_it(ask: Any) -> None:
    choice = ask(
        response_format=json_schema({"enum": ["red", "blue"]}), logprobs=True, top_logprobs=2
    ).choices[0]
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries) == choice.message.content
    assert any(entry.logprob < entry.top_logprobs[0].logprob - 1 for entry in entries)


class Address(pydantic.BaseModel):
    """Becomes a reference in the schema."""

    city: Literal["Paris", "Rome"]


class Person(pydantic.BaseModel):
    """What the model has to fill in."""

    age: Literal[30, 40]
    married: bool
    address: Address


def test_the_clients_parse_gives_a_pydantic_object(client: openai.OpenAI, server: Any) -> None:
    answer = client.beta.chat.completions.parse(
        model=server.model_name, messages=QUESTION, response_format=Person, temperature=0, max_tokens=100
    )
    person = answer.choices[0].message.parsed
    assert isinstance(person, Person)
    assert person.address.city in ("Paris", "Rome")


def test_what_cannot_be_enforced_is_passed_over_unless_strict(ask: Any) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2, "uniqueItems": True}
    choice = ask(response_format=json_schema(schema, strict=False)).choices[0]
    assert set(json.loads(choice.message.content)) <= {1, 2}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        ask(response_format=json_schema(schema))


def test_gbnf_on_both_routes(client: openai.OpenAI, server: Any, ask: Any) -> None:
    grammar = {"grammar": 'root ::= "<" [a-z]{2,4} ">" ("yes" | "no")\n'}
    chat = ask(extra_body=grammar).choices[0]
    text = client.completions.create(
        model=server.model_name, prompt=COUNTING, temperature=0, extra_body=grammar
    ).choices[0]
    for content, reason in ((chat.message.content, chat.finish_reason), (text.text, text.finish_reason)):
        assert re.fullmatch(r"<[a-z]{2,4}>(yes|no)", content)
        assert reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", "must have the type"),
        ({"response_format": "json_object"}, "response_format", "must have the type"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format",
            "needs",
        ),
        ({"response_format": json_schema({"type": "nosuch"})}, "response_format", "Invalid type: nosuch"),
        ({"response_format": json_schema({"not": {"type": "string"}})}, "response_format", "not"),
        (
            {"response_format": json_schema({"type": "integer", "multipleOf": 9999991})},
            "response_format",
            "too (much time or memory|long)",
        ),
        ({"extra_body": {"grammar": "root ::= nothing"}}, "grammar", "can't be read as GBNF"),
        ({"extra_body": {"grammar": 5}}, "grammar", "string"),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"grammar": 'root ::= "a"'}},
            "grammar",
            "can't be used together",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(ask: Any, fields: dict[str, Any], param: str, message: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            ask(stream=stream, **fields)
        assert caught.value.param == param


def test_leaving_a_constrained_stream_frees_its_place(ask: Any) -> None:
    """Far more streams are left than the server can run at once: it must not fill up."""
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 100_000}
    for _ in range(24):
        stream = ask(response_format=json_schema(schema), max_tokens=3000, stream=True)
        next(iter(stream))
        stream.close()
    started = time.monotonic()
    assert json.loads(ask(response_format=json_schema({"const": 1})).choices[0].message.content) == 1
    assert time.monotonic() - started < 30


def test_what_is_passed_over_is_named_in_the_answers_header(client: openai.OpenAI, server: Any) -> None:
    email = {"type": "string", "pattern": r"^(?!\.)[a-z]+@[a-z]+$", "maxLength": 9}
    size = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a"]}, "size\u00e9": size, "email": email},
        "required": ["kind"],
        "additionalProperties": False,
    }
    asked: dict[str, Any] = {"model": server.model_name, "messages": QUESTION, "max_tokens": 60}
    for stream in (False, True):
        response = client.chat.completions.with_raw_response.create(
            **asked, stream=stream, response_format=json_schema(schema, strict=False)
        )
        named = response.headers["x-schema-not-enforced"].split(", ")
        assert sorted(named) == [
            "response_format#/properties/email/pattern",
            "response_format#/properties/size%C3%A9/minimum",
        ]
    free = json_schema({"enum": [1]})
    plain = client.chat.completions.with_raw_response.create(**asked, response_format=free)
    assert "x-schema-not-enforced" not in plain.headers
    strict = json_schema(schema, strict=True)
    with pytest.raises(openai.BadRequestError, match=r"/properties/email/pattern, /properties/size"):
        client.chat.completions.create(**asked, response_format=strict)


def test_one_bad_tool_fails_no_request(client: openai.OpenAI, server: Any) -> None:
    """Zod's `email()` and pydantic's `Decimal` have patterns with look-ahead."""
    email = {"type": "object", "properties": {"to": {"type": "string", "pattern": r"^(?!\.)[a-z]+@[a-z]+$"}}}
    tools: list[Any] = [
        {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "mail", "parameters": email}},
    ]
    answer = client.chat.completions.with_raw_response.create(
        model=server.model_name, messages=QUESTION, max_tokens=5, tools=tools
    )
    assert answer.headers["x-schema-not-enforced"].endswith("/properties/to/pattern")


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({"guided_choice": ["one", 't/w"o']}, r'one|t/w"o'),
        ({"guided_regex": "^[a-c/]{3}$"}, r"[a-c/]{3}"),
        ({"regex": r"(?i)ab\d"}, r"[aA][bB]\d"),
        ({"guided_grammar": 'root ::= "x" [0-9]'}, r"x[0-9]"),
        ({"ebnf": 'root ::= "x" [0-9]'}, r"x[0-9]"),
        ({"guided_json": {"enum": ["a", "b"]}}, r'"[ab]"'),
        ({"json_schema": '{"enum": ["a", "b"]}'}, r'"[ab]"'),
        ({"structured_outputs": {"choice": ["left", "right"]}}, r"left|right"),
        ({"structured_outputs": {"json": {"const": 5}}}, r"5"),
        ({"response_format": {"type": "regex", "value": "[xyz]{2}"}}, r"[xyz]{2}"),
        ({"response_format": {"type": "json", "value": {"const": 7}}}, r"7"),
    ],
)
def test_the_forms_of_other_servers_on_both_routes(
    client: openai.OpenAI, server: Any, fields: dict[str, Any], form: str
) -> None:
    """Seen before: they were ignored, and the answer was free."""
    asked: dict[str, Any] = {"model": server.model_name, "max_tokens": 20, "extra_body": fields}
    chat = client.chat.completions.create(messages=QUESTION, **asked).choices[0]
    text = client.completions.create(prompt=COUNTING, **asked).choices[0]
    assert re.fullmatch(form, chat.message.content)
    assert re.fullmatch(form, text.text)
    assert chat.finish_reason == text.finish_reason == "stop"


def test_a_completion_may_ask_for_no_tokens(client: openai.OpenAI, server: Any) -> None:
    answer = client.completions.create(model=server.model_name, prompt=COUNTING, max_tokens=0, echo=True)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (COUNTING, "length")
    assert answer.usage.completion_tokens == 0
