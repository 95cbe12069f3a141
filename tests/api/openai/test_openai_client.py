"""The official `openai` client against a running server with a real model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from repeatable import repeats

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


@pytest.fixture(params=["/v1", "/openai/v1"])
def client(server: Any, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.http_url + request.param, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def client_v1(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.http_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_model_is_listed(client: openai.OpenAI, server: Any) -> None:
    assert server.model_name in [model.id for model in client.models.list()]
    model = client.models.retrieve(server.model_name)
    assert (model.id, model.object) == (server.model_name, "model")


def test_a_chat_completion_answers_the_question(client: openai.OpenAI, server: Any) -> None:
    answer = client.chat.completions.create(model=server.model_name, messages=QUESTION, **GREEDY)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert "Paris" in choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 24
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint


def test_a_stream_adds_up_to_the_whole_answer(client: openai.OpenAI, server: Any) -> None:
    whole = client.chat.completions.create(model=server.model_name, messages=QUESTION, **GREEDY)
    stream = client.chat.completions.create(
        model=server.model_name,
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert sum(bool(text) for text in texts) > 3
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert not any(reasons[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1


async def test_the_async_client_gets_eight_answers_at_once(server: Any) -> None:
    async with openai.AsyncOpenAI(base_url=server.http_url + "/v1", api_key="none", max_retries=0) as client:

        async def ask(number: int) -> str:
            stream = await client.completions.create(
                model=server.model_name, prompt=f"{COUNTING} 13, 14, {number}", stream=True, **GREEDY
            )
            return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])

        texts = await asyncio.gather(*(ask(15) for _ in range(8)))
    assert all(texts)
    assert all("16" in text for text in texts)


def test_several_choices(client_v1: openai.OpenAI, server: Any) -> None:
    answer = client_v1.chat.completions.create(
        model=server.model_name, messages=QUESTION, n=3, temperature=1.5, top_p=1, seed=5, max_tokens=12
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert 3 <= answer.usage.completion_tokens <= 36
    one = client_v1.chat.completions.create(
        model=server.model_name, messages=QUESTION, max_tokens=1, temperature=0
    )
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens


def test_several_streamed_choices_keep_apart(client_v1: openai.OpenAI, server: Any) -> None:
    stream = client_v1.chat.completions.create(
        model=server.model_name, messages=QUESTION, n=3, stream=True, **GREEDY
    )
    texts = {0: "", 1: "", 2: ""}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert all("Paris" in text for text in texts.values())


def test_stop_strings_end_the_text_and_stay_out_of_it(client_v1: openai.OpenAI, server: Any) -> None:
    for stop in ("15", ["never seen", " 15"]):
        answer = client_v1.completions.create(
            model=server.model_name, prompt=COUNTING, stop=stop, temperature=0, max_tokens=60
        )
        assert answer.choices[0].finish_reason == "stop"
        assert "14" in answer.choices[0].text
        assert "15" not in answer.choices[0].text
        stream = client_v1.completions.create(
            model=server.model_name, prompt=COUNTING, stop=stop, temperature=0, max_tokens=60, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_token_limits(client_v1: openai.OpenAI, server: Any) -> None:
    messages = [{"role": "user", "content": "Write a long story about the sea."}]
    for limit in (
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"max_tokens": 9, "max_completion_tokens": 5},
    ):
        answer = client_v1.chat.completions.create(
            model=server.model_name, messages=messages, temperature=0, **limit
        )
        assert answer.usage.completion_tokens == 5
        assert answer.choices[0].finish_reason == "length"
    default = client_v1.completions.create(model=server.model_name, prompt=COUNTING, temperature=0)
    assert default.usage.completion_tokens == 16


def test_the_same_seed_gives_the_same_text(client_v1: openai.OpenAI, server: Any) -> None:
    def ask(seed: int) -> str:
        answer = client_v1.completions.create(
            model=server.model_name, prompt="Once upon a time", seed=seed, temperature=1.2, max_tokens=20
        )
        return answer.choices[0].text

    assert repeats(lambda: ask(1))
    assert len({ask(seed) for seed in (1, 2, 3)}) > 1


def test_chat_logprobs(client_v1: openai.OpenAI, server: Any) -> None:
    answer = client_v1.chat.completions.create(
        model=server.model_name, messages=QUESTION, logprobs=True, top_logprobs=3, **GREEDY
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == answer.choices[0].message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        ordered = [top.logprob for top in entry.top_logprobs]
        assert ordered == sorted(ordered, reverse=True)
        assert entry.logprob == pytest.approx(ordered[0])  # greedy
        assert sum(math.exp(value) for value in ordered) <= 1.0001
    plain = client_v1.chat.completions.create(
        model=server.model_name, messages=QUESTION, logprobs=True, **GREEDY
    )
    assert all(entry.top_logprobs == [] for entry in plain.choices[0].logprobs.content)


def test_streamed_chat_logprobs(client_v1: openai.OpenAI, server: Any) -> None:
    stream = client_v1.chat.completions.create(
        model=server.model_name, messages=QUESTION, logprobs=True, stream=True, **GREEDY
    )
    text, spelled = "", b""
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].logprobs:
            spelled += b"".join(bytes(entry.bytes) for entry in chunk.choices[0].logprobs.content)
    assert text
    assert spelled.decode() == text


def test_completion_logprobs(client_v1: openai.OpenAI, server: Any) -> None:
    answer = client_v1.completions.create(model=server.model_name, prompt=COUNTING, logprobs=2, **GREEDY)
    choice, logprobs = answer.choices[0], answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 24
    assert "".join(logprobs.tokens) == choice.text
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs)


def test_a_list_of_prompts_and_echo(client_v1: openai.OpenAI, server: Any) -> None:
    prompts = [COUNTING, "a, b, c, d, e, f, g,"]
    answer = client_v1.completions.create(
        model=server.model_name, prompt=prompts, n=2, echo=True, temperature=0, max_tokens=6
    )
    texts = [choice.text for choice in answer.choices]
    assert len(texts) == 4
    assert all(text.startswith(prompts[0]) for text in texts[:2])
    assert all(text.startswith(prompts[1]) for text in texts[2:])
    assert "13" in texts[0]
    assert "h" in texts[2].removeprefix(prompts[1])


def test_token_ids_as_prompt(client_v1: openai.OpenAI, server: Any) -> None:
    answer = client_v1.completions.create(
        model=server.model_name, prompt=[[100, 200, 300], [400]], max_tokens=2, temperature=0
    )
    assert len(answer.choices) == 2
    assert answer.usage.prompt_tokens == 4


def test_logit_bias_forces_a_token(client_v1: openai.OpenAI, server: Any) -> None:
    free = client_v1.completions.create(model=server.model_name, prompt=COUNTING, max_tokens=4, temperature=0)
    forced = client_v1.completions.create(
        model=server.model_name, prompt=COUNTING, max_tokens=4, temperature=0, logit_bias={"100": 100}
    )
    assert forced.choices[0].text != free.choices[0].text
    again = client_v1.completions.create(
        model=server.model_name,
        prompt=COUNTING,
        max_tokens=4,
        temperature=0,
        logit_bias={"100": 100},
        logprobs=0,
    )
    assert len(set(again.choices[0].logprobs.tokens)) == 1


def test_leaving_a_stream_frees_its_place(client_v1: openai.OpenAI, server: Any) -> None:
    """Far more streams are left than the server can run at once: it must not fill up."""
    for _ in range(24):
        stream = client_v1.completions.create(
            model=server.model_name,
            prompt=COUNTING,
            max_tokens=400,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()
    answer = client_v1.with_options(timeout=30).completions.create(
        model=server.model_name, prompt=COUNTING, **GREEDY
    )
    assert "13" in answer.choices[0].text


def test_errors_are_the_clients_own_classes(client_v1: openai.OpenAI, server: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client_v1.chat.completions.create(model="no-such-model", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    assert server.model_name in unknown.value.message
    with pytest.raises(openai.BadRequestError) as hot:
        client_v1.chat.completions.create(model=server.model_name, messages=QUESTION, temperature="hot")
    assert (hot.value.param, "must be a valid number" in hot.value.message) == ("temperature", True)
    with pytest.raises(openai.BadRequestError) as long:
        client_v1.completions.create(model=server.model_name, prompt="word " * (server.context_tokens + 50))
    assert long.value.code == "context_length_exceeded"
    assert str(server.context_tokens) in long.value.message
    with pytest.raises(openai.BadRequestError):
        client_v1.chat.completions.create(model=server.model_name, messages=QUESTION, n=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f", "parameters": {}}]),
        ("audio", {"voice": "alloy", "format": "wav"}),
    ],
)
def test_what_is_not_supported_is_refused(
    client_v1: openai.OpenAI, server: Any, field: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError, match="not supported yet") as caught:
        client_v1.chat.completions.create(model=server.model_name, messages=QUESTION, **{field: value})
    assert caught.value.param == field
